//! Bad manifests: every known way to write one, and what the user is told. The schema refuses it at the API server, a
//! CEL rule refuses it there (an old server drops the rules), the operator refuses it in a condition, or kubectl refuses
//! what no old server sees. The cases are in `tests/bad_manifests/`.
//!
//! Whoever a case does not name must accept the manifest. The exception is a manifest that the schema refuses, which
//! nobody else has to judge. Because old servers drop the rules, the operator refuses whatever only a rule refuses.
//! Where the API server of the tests knows rules, it has to say the same as our evaluation of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::doc_markdown,
    reason = "a test that can't go on panics"
)]

mod support;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
    core::cel::Validator,
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{apiserver::ApiServer, refusal::without_values};
use taskgroup::{
    api::{TaskGroup, TaskGroupStatus, TaskHandler},
    operator::validate,
};

/// One bad manifest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is wrong with it.
    #[serde(rename = "case")]
    wrong: String,
    /// `metadata.name`.
    #[serde(default = "acme")]
    named: String,
    /// The spec, if it is a TaskGroup.
    group: Option<Value>,
    /// The spec, if it is a TaskHandler.
    handler: Option<Value>,
    /// The spec before, if it is an update.
    was: Option<Value>,
    /// The spec of the TaskHandler that the TaskGroup refers to, if it matters.
    with: Option<Value>,
    /// What the API server says.
    #[serde(default)]
    schema: Texts,
    /// What the CEL rules say.
    #[serde(default)]
    rule: Texts,
    /// What the operator says.
    #[serde(default)]
    operator: Texts,
    /// What kubectl says.
    #[serde(default)]
    kubectl: Texts,
}

/// The API server that is asked.
struct Server {
    api: &'static ApiServer,
    client: Client,
    namespace: String,
    /// Whether it evaluates CEL rules, or drops them.
    knows_rules: bool,
}

impl Server {
    async fn start() -> Self {
        let api = ApiServer::shared_with_crds().await;
        support::kubectl::knows_our_kinds(api).await;
        let client = api.client();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let kept = crds.get("taskgroups.taskgroup.io").await.unwrap();
        Self {
            api,
            namespace: api.namespace().await,
            knows_rules: serde_json::to_string(&kept)
                .unwrap()
                .contains("x-kubernetes-validations"),
            client,
        }
    }
}

/// Parts of a message, all of which it contains. None: nothing is refused.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Texts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    fn parts(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }

    /// Says how `said` is not what was expected.
    fn judge(&self, who: &str, said: Result<(), String>) -> Option<String> {
        match (self, said) {
            (Self::None, Ok(())) => None,
            (Self::None, Err(said)) => Some(format!("{who} should accept it, but says: {said}")),
            (_, Ok(())) => Some(format!("{who} accepts it")),
            (_, Err(said)) => {
                let short = without_values(&said);
                let says = |part: &&String| said.contains(part.as_str()) || short.contains(part.as_str());
                let missing = self.parts().iter().find(|part| !says(part))?;
                let said: String = said.chars().take(600).collect();
                Some(format!("{who} should say: {missing}\n      but says: {said}"))
            }
        }
    }
}

fn acme() -> String {
    "acme".into()
}

impl Case {
    fn kind(&self) -> &'static str {
        if self.handler.is_some() {
            "TaskHandler"
        } else {
            "TaskGroup"
        }
    }

    fn object(&self, spec: &Value) -> Value {
        let metadata = json!({"name": self.named});
        let mut object = json!({"apiVersion": "taskgroup.io/v1alpha1", "kind": self.kind(), "metadata": metadata});
        if !spec.is_null() {
            object["spec"] = spec.clone();
        }
        object
    }

    /// The manifest that is bad.
    fn manifest(&self) -> Value {
        self.object(self.group.as_ref().or(self.handler.as_ref()).unwrap_or(&Value::Null))
    }

    /// Asks the API server, which does not keep what it accepts.
    async fn ask_server(&self, server: &Server) -> Result<(), String> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("taskgroup.io", "v1alpha1", self.kind()));
        let api: Api<DynamicObject> = Api::namespaced_with(server.client.clone(), &server.namespace, &resource);
        let object = serde_json::from_value(self.manifest()).unwrap();
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match api.create(&params, &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Err(status.message.clone()),
            Err(error) => panic!("{}: {error}", self.wrong),
        }
    }

    /// Evaluates the CEL rules on the CRD's schema, after its defaults.
    fn ask_rules(&self) -> Result<(), String> {
        let was = self.was.as_ref().map(|spec| self.object(spec));
        Validator::new()
            .validate_with_defaults(&schema_of(self.kind()), &self.manifest(), was.as_ref())
            .map_err(|errors| errors.to_string())
    }

    /// Asks the operator; `None` where the manifest does not even have the right types.
    fn ask_operator(&self) -> Option<Result<(), String>> {
        if self.handler.is_some() {
            let handler: TaskHandler = serde_json::from_value(self.manifest()).ok()?;
            return Some(validate::handler(&handler).map(drop).map_err(|error| error.to_string()));
        }
        let mut group: TaskGroup = serde_json::from_value(self.manifest()).ok()?;
        group.metadata.namespace = Some("test".into());
        if let Some(was) = &self.was {
            let mut before: TaskGroup = serde_json::from_value(self.object(was)).unwrap();
            before.metadata.namespace = Some("test".into());
            group.status = Some(TaskGroupStatus {
                stream: Some(validate::queue(&before).stream().to_string()),
                ..TaskGroupStatus::default()
            });
        }
        let mut said = validate::group(&group).map_err(|error| error.to_string());
        if let (Ok(valid), Some(spec)) = (&said, &self.with) {
            let handler = json!({"metadata": {"name": "default"}, "spec": spec});
            let handler: TaskHandler = serde_json::from_value(handler).unwrap();
            let handler = validate::handler(&handler).unwrap();
            if let Err(error) = validate::fits(valid, &handler) {
                said = Err(error.to_string());
            }
        }
        Some(said.map(drop))
    }

    /// Applies it with kubectl, as a dry run.
    fn ask_kubectl(&self, server: &Server) -> Result<(), String> {
        let args = ["apply", "--dry-run=server", "-n", &server.namespace, "-f", "-"];
        support::kubectl::kubectl(server.api, &args, &self.manifest().to_string()).map(drop)
    }

    /// Everything that is not as the case says.
    async fn problems(&self, server: &Server) -> Vec<String> {
        let mut problems = Vec::new();
        // The server is asked to create only, so it judges no change.
        let by_rule = server.knows_rules && self.schema.is_none() && self.was.is_none();
        let expected = if by_rule { &self.rule } else { &self.schema };
        let said = self.ask_server(server).await;
        problems.extend(expected.judge("the API server", said));
        if self.schema.is_none() {
            problems.extend(self.rule.judge("a rule", self.ask_rules()));
        }
        let operator = self.ask_operator();
        if self.schema.is_none() || !self.operator.is_none() {
            let said = operator.unwrap_or_else(|| Err("it can't be read".into()));
            problems.extend(self.operator.judge("the operator", said));
        }
        if !self.kubectl.is_none() {
            problems.extend(self.kubectl.judge("kubectl", self.ask_kubectl(server)));
        }
        if self.schema.is_none() && self.operator.is_none() && self.kubectl.is_none() {
            problems.push("with an old API server nobody refuses it".into());
        }
        problems
    }
}

/// The cases of both kinds, and those that are too long for a file.
fn cases() -> Vec<Case> {
    let files = [
        include_str!("bad_manifests/task_groups.yaml"),
        include_str!("bad_manifests/task_handlers.yaml"),
    ];
    let mut cases: Vec<Case> = files
        .iter()
        .flat_map(|file| serde_yaml::from_str::<Vec<Case>>(file).unwrap())
        .collect();
    let variables: Vec<Value> = (0..257)
        .map(|n| json!({"name": format!("V{n}"), "value": "x"}))
        .collect();
    let long = [
        json!({
            "case": "257 variables",
            "group": {"concurrency": 1, "env": variables},
            "schema": "spec.env in body should have at most 256 items",
            "operator": "spec.env: must have at most 256 items, not 257",
        }),
        json!({
            "case": "a value of 32769 characters",
            "group": {"concurrency": 1, "env": [{"name": "A", "value": "x".repeat(32_769)}]},
            "schema": ["value", "32768"],
        }),
        json!({
            "case": "a path of 1025 characters",
            "handler": {"http": {"path": format!("/{}", "x".repeat(1024))}, "template": {}},
            "schema": ["spec.http.path", "1024"],
        }),
    ];
    cases.extend(long.map(|case| serde_json::from_value(case).unwrap()));
    cases
}

fn schema_of(kind: &str) -> Value {
    let crds = taskgroup::api::crds().into_iter();
    let mut schemas = crds.filter(|(_, crd)| crd.spec.names.kind == kind).map(|(_, crd)| {
        let schema = crd.spec.versions[0].schema.clone().unwrap();
        serde_json::to_value(schema.open_api_v3_schema.unwrap()).unwrap()
    });
    schemas.next().unwrap()
}

#[tokio::test]
async fn a_bad_manifest_is_refused_with_a_message_that_says_what_to_do() {
    let server = Server::start().await;
    let cases = cases();
    let mut report = Vec::new();
    for case in &cases {
        let problems = case.problems(&server).await;
        report.extend(problems.iter().map(|problem| format!("{}\n    {problem}", case.wrong)));
    }
    assert!(cases.len() >= 40, "{} cases", cases.len());
    assert!(report.is_empty(), "{} problems\n{}", report.len(), report.join("\n"));
}
