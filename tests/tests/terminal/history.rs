//! Conversations on this machine.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::World;

fn files(world: &World) -> Vec<std::path::PathBuf> {
    let folder = world.home.path().join("data/srchat/history");
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

async fn listed(world: &World) -> Vec<Value> {
    let output = world.runs(&["history", "ls", "--output", "json"]).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_can_be_found_again_by_its_owner_only() {
    let world = World::saying("It is under the oak.").await;
    let mut terminal = world.attach(&[]).await;
    terminal.press("Where is the treasure?\r");
    terminal.shows("under the oak.\n>").await;
    terminal.press("/exit\r");
    assert!(terminal.ends().await.success());
    for file in files(&world) {
        let bytes = fs::read(&file).unwrap();
        for secret in [&b"treasure"[..], b"oak", b"acme", world.name.as_bytes()] {
            assert!(
                !bytes.windows(secret.len()).any(|part| part == secret),
                "{}",
                file.display()
            );
        }
    }
    let list = listed(&world).await;
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(
        (&list[0]["model"], &list[0]["first"]),
        (&"acme/tiny".into(), &"Where is the treasure?".into())
    );
    let said = async |arguments: &[&str]| {
        let output = world.runs(&[&["history"], arguments].concat()).await;
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let shown = said(&["show", &id[..6]]).await;
    assert!(
        shown.contains("## You\n\nWhere is the treasure?\n\n## Model\n\nIt is under the oak.\n"),
        "{shown}"
    );
    assert!(
        said(&["search", "OAK"])
            .await
            .ends_with("model  It is under the oak.\n")
    );
    assert!(
        said(&["export", id, "--format", "json"])
            .await
            .contains(r#""answer":"It is under the oak.""#)
    );
    assert_eq!(
        said(&["show", "zzz"]).await,
        "error: there is no conversation zzz\nhint: `srchat history ls` lists them\n"
    );

    // The next chat finds it with Ctrl-R.
    let terminal = world.attach(&[]).await;
    terminal.press("\x12treas");
    terminal.shows("Where is the treasure?").await;
    terminal.press("\r");
    terminal.shows("> Where is the treasure?").await;
    terminal.press("\r");
    world.asked(2).await;
    terminal.shows("under the oak.\n>").await;
    assert_eq!(
        said(&["rm", "--all"]).await.lines().next().unwrap(),
        format!("{id} is removed.")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_history_nothing_is_on_the_disk() {
    let world = World::saying("Yes.").await;
    let mut terminal = world.attach(&["--no-history"]).await;
    terminal.press("Is it?\r");
    terminal.shows("Yes.\n>").await;
    terminal.press("/exit\r");
    assert!(terminal.ends().await.success());
    let left: Vec<_> = fs::read_dir(world.home.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_chats_at_once_and_one_that_is_killed_lose_nothing() {
    let world = World::saying("Yes.").await;
    let (mut one, mut two) = (world.attach(&[]).await, world.attach(&[]).await);
    for (terminal, said) in [(&one, "from one"), (&two, "from two")] {
        terminal.press(&format!("{said}\r"));
        terminal.shows("Yes.\n>").await;
    }
    let busy = world.runs(&["history", "rm", "--all"]).await;
    assert!(
        String::from_utf8_lossy(&busy.stderr).contains("is open in another srchat"),
        "{busy:?}"
    );
    one.signal(Signal::KILL);
    let _ = one.ends().await;
    two.press("/exit\r");
    let _ = two.ends().await;
    let mut first: Vec<_> = listed(&world)
        .await
        .iter()
        .map(|story| story["first"].as_str().unwrap().to_owned())
        .collect();
    first.sort();
    assert_eq!(first, ["from one", "from two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_a_newer_one_and_a_wrong_key_are_said_and_cost_only_themselves() {
    let world = World::saying("Yes.").await;
    let mut terminal = world.attach(&[]).await;
    for (times, said) in ["first", "second", "third"].into_iter().enumerate() {
        terminal.press(&format!("{said}\r"));
        world.asked(times + 1).await;
        terminal.shows(&format!("> {said}\nYes.\n>")).await;
    }
    terminal.press("/exit\r");
    let _ = terminal.ends().await;
    let chat = files(&world)
        .into_iter()
        .find(|file| file.extension().is_some_and(|suffix| suffix == "chat"))
        .unwrap();
    let whole = fs::read(&chat).unwrap();

    let mut damaged = whole.clone();
    let mark = [0xf5, b'S', b'R', b'C', b'H'];
    let records: Vec<usize> = (0..whole.len())
        .filter(|at| whole[*at..].starts_with(&mark))
        .collect();
    damaged[records[3] + 70] ^= 1;
    fs::write(&chat, damaged).unwrap();
    let list = listed(&world).await;
    assert_eq!(
        (&list[0]["turns"], &list[0]["lost"]),
        (&3.into(), &1.into())
    );

    let mut newer = whole.clone();
    for record in records {
        newer[record + 8] = 2;
    }
    fs::write(&chat, newer).unwrap();
    let said = world.runs(&["history", "ls"]).await;
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.contains("was written by a newer version of srchat\nhint: upgrade srchat"),
        "{said}"
    );

    fs::write(&chat, whole).unwrap();
    fs::write(
        world.home.path().join("data/srchat/history/key"),
        "00".repeat(32),
    )
    .unwrap();
    let said = world.runs(&["history", "ls"]).await;
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.contains("was written with another key\nhint: put the key that wrote it at "),
        "{said}"
    );
}
