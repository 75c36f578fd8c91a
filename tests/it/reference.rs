//! What README and schema say of the configuration and the options is what there is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tower_openai_proxy::Config;

use crate::support::{Server, TempFile};

type Names = BTreeSet<String>;

fn file(path: &str) -> String {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).into();
    fs::read_to_string(root.join(path)).expect("a file of this repository")
}

/// What stands between backticks.
fn quoted(text: &str) -> Names {
    let parts = text.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The fields that are known where `text` has one that isn't.
fn known_fields(text: &str) -> Names {
    let config = TempFile::new("config.json", text);
    let error = Config::from_path(&config.path).expect_err("an unknown field");
    let error = error.to_string();
    let (_, known) = error.split_once("known here are").expect("a list");
    quoted(known)
}

fn schema() -> Value {
    serde_json::from_str(&file("examples/server/config.schema.json")).expect("JSON")
}

fn properties(schema: &Value) -> &Map<String, Value> {
    assert_eq!(schema["additionalProperties"], false);
    schema["properties"].as_object().expect("properties")
}

/// The schemas of the document, of a backend, and of the settings.
fn parts(schema: &Value) -> [&Map<String, Value>; 3] {
    let document = &schema["properties"];
    [
        schema,
        &document["primary_backends"]["items"],
        &document["settings"],
    ]
    .map(properties)
}

fn names(properties: &Map<String, Value>) -> Names {
    properties.keys().cloned().collect()
}

/// The first cells of README's tables.
fn first_cells(readme: &str) -> impl Iterator<Item = &str> {
    let rows = readme.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.split(" | ").next())
}

#[test]
fn the_schema_has_the_fields_of_the_configuration() {
    let schema = schema();
    for (part, text) in parts(&schema).into_iter().zip([
        r#"{ "unknown": 1 }"#,
        r#"{ "primary_backends": [{ "unknown": 1 }] }"#,
        r#"{ "settings": { "unknown": 1 } }"#,
    ]) {
        assert_eq!(names(part), known_fields(text));
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_configuration() {
    let schema = schema();
    let [_, backend, settings] = parts(&schema).map(|properties| {
        let with_default = properties.iter().filter_map(|(name, property)| {
            let default = property.get("default")?;
            Some((name.clone(), default.clone()))
        });
        with_default.collect::<Map<_, _>>()
    });
    let mut backend = backend;
    backend.insert("name".into(), "a".into());
    backend.insert("url".into(), "http://a.test".into());
    let config = |text: &str| {
        let config = TempFile::new("config.json", text);
        Config::from_path(&config.path).expect("a configuration")
    };
    let document = serde_json::json!({ "primary_backends": [backend], "settings": settings });
    assert_eq!(
        config(&document.to_string()),
        config(r#"{ "primary_backends": [{ "name": "a", "url": "http://a.test" }] }"#)
    );
}

#[test]
fn the_readme_tells_of_every_field() {
    let readme = file("README.md");
    let cells: Names = first_cells(&readme).flat_map(quoted).collect();
    let fields = |prefixes: &[&str]| -> Names {
        let fields = cells.iter().filter_map(|cell| {
            let mut prefixes = prefixes.iter();
            prefixes.find_map(|prefix| cell.strip_prefix(prefix))
        });
        fields.map(str::to_owned).collect()
    };
    let schema = schema();
    let [_, backend, settings] = parts(&schema);
    assert_eq!(fields(&["settings."]), names(settings));
    // Those of a client key have the same ellipsis.
    let told = fields(&["primary_backends[].", "…."]);
    assert!(told.is_superset(&names(backend)), "{told:?}");
}

#[test]
fn the_readme_tells_of_every_option_and_variable() {
    let output = Server::command().arg("--help").output();
    let help = String::from_utf8(output.expect("the server starts").stdout).expect("UTF-8");
    let (options, variables) = help.split_once("Environment:").expect("both");
    let words = |text: &str| {
        let words = text.split(|c: char| c.is_whitespace() || c == ',');
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    // Where a line begins with it.
    let options = options.lines().filter_map(|line| {
        let option = words(line)
            .into_iter()
            .find(|word| word.starts_with("--"))?;
        let before = line.split(&option).next().unwrap_or_default();
        let is_first = before.chars().all(|c| c == ' ') || before.trim().starts_with('-');
        (line.starts_with("  ") && is_first).then_some(option)
    });
    let variables = variables.lines().filter(|line| {
        line.starts_with("  ") && line.trim_start().starts_with(|c: char| c.is_uppercase())
    });
    let is_variable = |word: &String| {
        word.contains('_') && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    };
    let known: Names = options
        .chain(variables.flat_map(words).filter(is_variable))
        .collect();

    let readme = file("README.md");
    let cells = first_cells(&readme).flat_map(quoted);
    let told: Names = cells
        .filter_map(|cell| words(&cell).into_iter().next())
        .filter(|word| word.starts_with("--") || is_variable(word))
        .collect();
    assert_eq!(told, known, "README's table of options, and --help");
}
