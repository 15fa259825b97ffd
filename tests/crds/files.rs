//! The files in `crds/`, which is what users apply.

use std::{fs, path::Path};

#[test]
fn the_files_are_what_the_code_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let expected = taskgroup::crds::yaml().unwrap();
    for (name, text) in &expected {
        let file = fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(
            file == *text,
            "crds/{name} is not what the API in src/api/ says: run `make crds`"
        );
    }
    for file in fs::read_dir(dir).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "kustomization.yaml" || expected.iter().any(|(file, _)| *file == name),
            "crds/{name} is no CRD of ours: remove it"
        );
    }
}

#[test]
fn no_string_is_a_boolean_to_readers_of_yaml_1_1() {
    for (name, text) in taskgroup::crds::yaml().unwrap() {
        assert_eq!(bare_booleans(&text), [""; 0], "crds/{name}: quote them");
    }
}

#[test]
fn bare_booleans_of_yaml_1_1_are_found() {
    let text = "a: yes\nb: 'no'\n- off\n- c: On\n  n: 1\ntext: on and off\nfine: true\n";
    assert_eq!(bare_booleans(text), ["a: yes", "- off", "- c: On", "n: 1"]);
}

/// The lines with a plain `yes`, `on`, `n`, … as key or value. Our writer leaves these strings
/// unquoted, as they are in YAML 1.2; kubectl reads YAML 1.1, where they are booleans.
fn bare_booleans(yaml: &str) -> Vec<&str> {
    let is_boolean = |scalar: &str| {
        let scalar = scalar.to_ascii_lowercase();
        matches!(scalar.as_str(), "y" | "yes" | "n" | "no" | "on" | "off")
    };
    let lines = yaml.lines().map(str::trim);
    lines
        .filter(|line| {
            let entry = line.trim_start_matches("- ");
            let (key, value) = entry.split_once(':').unwrap_or((entry, ""));
            is_boolean(key) || is_boolean(value.trim())
        })
        .collect()
}
