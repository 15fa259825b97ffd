//! The certificates that the worker trusts: those of the system, or Mozilla's where it has none, as in an image that holds
//! nothing but this program.

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use std::sync::Arc;

/// A TLS client that trusts these certificates.
///
/// # Errors
/// A library that was built without the usual versions of TLS.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let builder = || {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
    };
    Ok(match builder()?.with_native_roots() {
        Ok(config) => config.with_no_client_auth(),
        Err(_) => builder()?.with_webpki_roots().with_no_client_auth(),
    })
}
