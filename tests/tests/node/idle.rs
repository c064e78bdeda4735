//! What an installation costs that nobody uses.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;
use srchat_tests::cache::say;
use srchat_tests::eventually::eventually;
use srchat_tests::process;

use super::stage::{self, STEP};

/// Says how much memory each process of the release holds, once all three run.
pub async fn tell() {
    let held = eventually("the release's processes", STEP, || async {
        let held = held();
        if held.values().map(Vec::len).sum::<usize>() == 3 {
            Ok(held)
        } else {
            Err(format!("{held:?}"))
        }
    })
    .await;
    // Not made for release, the program is larger, and holds more.
    let image = match stage::archive() {
        Some(_) => "cargo image",
        None => "development",
    };
    say(&json!({"idle_kib": held, "image": image}).to_string());
}

/// By what the process is. Nothing but the node's own processes can be seen in its place.
fn held() -> BTreeMap<String, Vec<u64>> {
    let mut held = BTreeMap::<_, Vec<_>>::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        let (program, part) = (words.next().unwrap_or_default(), words.next());
        if let (true, Some(part @ ("controller" | "gateway")), Some(kib)) = (
            program.ends_with("/srchat-operator"),
            part,
            process::resident(pid),
        ) {
            held.entry(part.to_owned()).or_default().push(kib);
        }
    }
    held
}
