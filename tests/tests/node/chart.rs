//! The chart, and an older one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stage::{OLDER, Stage};

/// The column that the older CRD lacks.
const COLUMN: &str = "MESSAGE";
const COLUMN_IN_CRD: &str = r#"    - jsonPath: .status.conditions[?(@.type=="Ready")].message
      name: MESSAGE
      priority: 1
      type: string
"#;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/srchat")
}

/// The one at hand.
pub fn ours() -> String {
    path().display().to_string()
}

/// Until there is a release before this one, the chart at hand under a lower version, with a CRD that lacks something.
pub fn older(stage: &Stage) -> String {
    let to = stage.home().join("older");
    let copied = Command::new("cp")
        .arg("-r")
        .args([&path(), &to])
        .status()
        .unwrap();
    assert!(copied.success());
    let change = |file: &str, from: &str, into: &str| {
        let file = to.join(file);
        let text = fs::read_to_string(&file).unwrap();
        let changed = text.replace(from, into);
        assert_ne!(changed, text, "{} has {from}", file.display());
        fs::write(file, changed).unwrap();
    };
    change("Chart.yaml", env!("CARGO_PKG_VERSION"), OLDER);
    change("templates/crd.yaml", COLUMN_IN_CRD, "");
    to.display().to_string()
}

/// Whether the CRD is that of the chart at hand.
pub fn has_its_columns(stage: &Stage, namespace: &str) -> bool {
    let get = [
        "--namespace",
        namespace,
        "get",
        "chatsessions",
        "--output=wide",
    ];
    stage.kubectl(&get).contains(COLUMN)
}
