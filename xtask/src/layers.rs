//! The import table: which folder may import which, and which crate or clock belongs to one place.
//!
//! The tables below are the documentation as well as the check. Only normal dependencies count:
//! what a test or a build script uses is its own affair.

use crate::checkout::Checkout;
use crate::source::{Source, code, files, without_tests};
use anyhow::Result;
use serde_json::Value;
use std::process::ExitCode;

/// What one package may import.
struct Layer {
    package: &'static str,
    /// Packages of this workspace.
    ours: &'static [&'static str],
    /// Crates from outside; none where any will do.
    others: Option<&'static [&'static str]>,
}

const fn layer(package: &'static str, ours: &'static [&'static str]) -> Layer {
    Layer {
        package,
        ours,
        others: None,
    }
}

const fn strict(
    package: &'static str,
    ours: &'static [&'static str],
    others: &'static [&'static str],
) -> Layer {
    Layer {
        package,
        ours,
        others: Some(others),
    }
}

const CORE: &str = "rebloom-core";
const PROTO: &str = "rebloom-proto";
const RUNTIME: &str = "rebloom-runtime";
const DATA: &str = "rebloom-data";
const FORMAT: &str = "rebloom-format";
const RANK: &str = "rebloom-rank";

/// Who may import whom.
const LAYERS: &[Layer] = &[
    strict(CORE, &[], &["cel", "foldhash", "serde", "thiserror"]),
    strict(
        PROTO,
        &[CORE],
        &["prost", "tonic", "tonic-prost", "thiserror"],
    ),
    layer(RUNTIME, &[CORE]),
    layer(DATA, &[]),
    // Bytes in, values out: what of it takes files apart is all it may have.
    strict(
        FORMAT,
        &[CORE],
        &[
            "safetensors",
            "serde",
            "serde_json",
            "serde_norway",
            "serde_path_to_error",
            "thiserror",
        ],
    ),
    layer("rebloom-controller", &[CORE, PROTO, RUNTIME]),
    layer("rebloom-agent", &[CORE, PROTO, RUNTIME, FORMAT]),
    layer(RANK, &[CORE, PROTO, RUNTIME]),
    layer("rebloom-worker", &[CORE, RUNTIME, DATA, FORMAT, RANK]),
    layer("rebloom-cli", &[CORE, PROTO, RUNTIME, DATA, FORMAT]),
    // Histories and durations that the simulator replays are TOML files; its report is JSON, if one likes.
    strict("rebloom-sim", &[CORE], &["serde", "serde_json", "toml"]),
    layer("rebloom-readers", &[CORE, PROTO, RUNTIME, DATA, FORMAT]),
    layer("xtask", &[]),
];

/// The package that may import anything.
const ANYTHING: &str = "rebloom-tests";

/// Crates that one package alone may import.
const OWNED: &[(&str, &str)] = &[
    ("cel", CORE),
    ("tch", "rebloom-worker"),
    ("sled", RUNTIME),
    ("tokenizers", DATA),
    ("kube", "rebloom-controller"),
    ("axum", "rebloom-controller"),
    ("nvml-wrapper", "rebloom-agent"),
    ("nvml-wrapper-sys", "rebloom-agent"),
    ("sysinfo", "rebloom-agent"),
];

/// Names that only code in one place may use, tests aside.
struct Place {
    names: &'static [&'static str],
    /// Start of the path of the files that may.
    only: &'static str,
}

const PLACES: &[Place] = &[
    Place {
        names: &["SystemTime::now", "Instant::now", "clock_gettime"],
        only: "runtime/src/clock.rs",
    },
    Place {
        names: &["sled::"],
        only: "runtime/src/journal.rs",
    },
    Place {
        names: &["tch::"],
        only: "worker/",
    },
];

/// Checks the tables; prints every line that breaks them.
pub(crate) fn run(checkout: &Checkout) -> Result<ExitCode> {
    let mut broken = imports(&checkout.metadata()?);
    broken.extend(places(&files(&checkout.root, &["rs"])?));
    for line in &broken {
        eprintln!("layers: {line}");
    }
    if broken.is_empty() {
        println!(
            "layers: {} packages keep to the import table",
            LAYERS.len() + 1
        );
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("layers: the tables are in xtask/src/layers.rs");
    Ok(ExitCode::FAILURE)
}

/// What breaks the import table.
fn imports(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let names: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if name == ANYTHING {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == name) else {
            broken.push(format!("{name} is not in the import table"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().unwrap_or(&empty);
        for dependency in dependencies
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
        {
            let on = dependency["name"].as_str().unwrap_or_default();
            if names.contains(&on) {
                if !layer.ours.contains(&on) {
                    broken.push(format!(
                        "{name} imports {on}; it may import {}",
                        list(layer.ours)
                    ));
                }
            } else if let Some((_, owner)) = OWNED.iter().find(|(owned, _)| *owned == on)
                && *owner != name
            {
                broken.push(format!("{name} imports {on}; only {owner} may"));
            } else if let Some(others) = layer.others
                && !others.contains(&on)
            {
                broken.push(format!(
                    "{name} imports {on}; from outside it may import {}",
                    list(others)
                ));
            }
        }
    }
    for layer in LAYERS {
        if !names.contains(&layer.package) {
            broken.push(format!(
                "{} is in the import table but not in the workspace",
                layer.package
            ));
        }
    }
    broken
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// What uses a name out of its place. xtask itself measures and quotes, and tests may.
fn places(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let path = source.path.to_string_lossy();
        let is_test = ["/tests/", "/benches/"]
            .iter()
            .any(|part| path.contains(part))
            || path.starts_with("tests/")
            || path.ends_with("/tests.rs");
        if is_test || path.starts_with("xtask/") {
            continue;
        }
        let code = without_tests(&code(&source.text));
        for place in PLACES.iter().filter(|place| !path.starts_with(place.only)) {
            for (line, text) in (1..).zip(code.lines()) {
                if let Some(name) = place.names.iter().find(|name| uses(text, name)) {
                    broken.push(format!(
                        "{path}:{line} uses {name}; only {} may",
                        place.only
                    ));
                }
            }
        }
    }
    broken
}

/// Whether a line uses a path that begins with a name, and not a longer name that ends like it.
fn uses(line: &str, name: &str) -> bool {
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    /// A workspace that keeps to the table, with one more dependency.
    fn workspace(package: &str, on: &str, kind: Value) -> Value {
        let packages: Vec<Value> = LAYERS
            .iter()
            .map(|layer| {
                let mut dependencies: Vec<Value> = layer
                    .ours
                    .iter()
                    .map(|name| json!({"name": name, "kind": null}))
                    .collect();
                if layer.package == package {
                    dependencies.push(json!({"name": on, "kind": kind}));
                }
                json!({"name": layer.package, "dependencies": dependencies})
            })
            .collect();
        json!({"packages": packages})
    }

    fn broken_by(package: &str, on: &str) -> Vec<String> {
        imports(&workspace(package, on, Value::Null))
    }

    #[test]
    fn the_table_itself_is_kept() {
        assert_eq!(broken_by("rebloom-agent", "tokio"), [""; 0]);
    }

    #[test]
    fn an_import_against_the_layers_is_named() {
        assert_eq!(
            broken_by("rebloom-agent", "rebloom-controller"),
            [
                "rebloom-agent imports rebloom-controller; it may import rebloom-core, rebloom-proto, rebloom-runtime, rebloom-format"
            ]
        );
        assert_eq!(
            broken_by("rebloom-core", "rebloom-runtime"),
            ["rebloom-core imports rebloom-runtime; it may import nothing"]
        );
    }

    #[test]
    fn core_takes_nothing_else_from_outside() {
        assert_eq!(
            broken_by("rebloom-core", "tokio"),
            [
                "rebloom-core imports tokio; from outside it may import cel, foldhash, serde, thiserror"
            ]
        );
    }

    #[test]
    fn an_owned_crate_stays_with_its_owner() {
        assert_eq!(broken_by("rebloom-worker", "tch"), [""; 0]);
        assert_eq!(
            broken_by("rebloom-cli", "tch"),
            ["rebloom-cli imports tch; only rebloom-worker may"]
        );
    }

    #[test]
    fn what_only_tests_and_builds_use_does_not_count() {
        assert_eq!(
            imports(&workspace("rebloom-core", "proptest", json!("dev"))),
            [""; 0]
        );
        assert_eq!(
            imports(&workspace("rebloom-proto", "protox", json!("build"))),
            [""; 0]
        );
    }

    #[test]
    fn a_package_that_the_table_lacks_is_named_and_so_is_the_reverse() {
        let mut metadata = broken_workspace();
        assert_eq!(
            imports(&metadata),
            [
                "extra is not in the import table",
                "xtask is in the import table but not in the workspace"
            ]
        );
        metadata["packages"].as_array_mut().unwrap().clear();
        assert_eq!(imports(&metadata).len(), LAYERS.len());
    }

    fn broken_workspace() -> Value {
        let mut metadata = workspace("", "", Value::Null);
        let packages = metadata["packages"].as_array_mut().unwrap();
        packages.pop();
        packages.push(json!({"name": "extra", "dependencies": []}));
        metadata
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        places(&[Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        }])
    }

    #[test]
    fn a_clock_is_read_in_one_file() {
        let text = "\nlet t = std::time::Instant::now();";
        assert_eq!(
            found("agent/src/main.rs", text),
            ["agent/src/main.rs:2 uses Instant::now; only runtime/src/clock.rs may"]
        );
        assert_eq!(found("runtime/src/clock.rs", text), [""; 0]);
        assert_eq!(found("tests/tests/chaos.rs", text), [""; 0]);
        assert_eq!(
            found("agent/src/main.rs", "// Instant::now is not for us"),
            [""; 0]
        );
        assert_eq!(
            found(
                "agent/src/main.rs",
                "#[cfg(test)]\nmod tests { fn f() { SystemTime::now(); } }"
            ),
            [""; 0]
        );
        assert_eq!(
            found(
                "agent/src/main.rs",
                "#[cfg(test)]\nmod tests {}\nfn f() { SystemTime::now(); }"
            )
            .len(),
            1
        );
    }

    #[test]
    fn sled_has_one_file_and_tch_one_package() {
        assert_eq!(found("runtime/src/journal.rs", "use sled::Db;"), [""; 0]);
        assert_eq!(found("runtime/src/tls.rs", "use sled::Db;").len(), 1);
        assert_eq!(found("worker/src/model.rs", "tch::Tensor"), [""; 0]);
        assert_eq!(found("cli/src/main.rs", "tch::Tensor").len(), 1);
        assert_eq!(found("cli/src/main.rs", "watch::channel()"), [""; 0]);
    }
}
