//! What is asked and shown where a person sits at a terminal.

use std::fs;

use rustix::process::Signal;
use srchat_tests::terminal::Terminal;

use super::stage::{NAME, serving, stage};

const SIZE: (u16, u16) = (24, 160);

pub async fn from_a_models_name_to_a_chat_and_back_to_nothing() {
    let stage = stage().await;
    let namespace = stage.namespace("person");
    let run = [
        "run",
        &stage.model,
        "--name",
        "person",
        "--context-length",
        "2048",
        "--no-history",
    ];
    let mut terminal = Terminal::run(&stage.srchat_in(&namespace, &run), SIZE).unwrap();
    terminal.shows("Rent it as person, about $").await;
    let rented = stage.simulator(|simulator| simulator.ledger().pods).await;
    let session = stage.sessions(&namespace).get("person").await.unwrap();
    let ours = |pod: &&srchat_tests::runpod::Entry| pod.uid == session.metadata.uid;
    assert_eq!(
        rented.iter().filter(ours).count(),
        0,
        "rented before it was confirmed"
    );
    terminal.press("perhaps\r");
    terminal.shows("Please answer yes or no.").await;
    terminal.press("y\r");
    terminal.shows("/help lists the commands").await;
    terminal.press("What is the capital of France?\r");
    terminal.shows("Paris").await;
    terminal.press("/exit\r");
    terminal.shows("End person? It costs $").await;
    terminal.press("\r");
    terminal
        .shows("person is ending; Ctrl-C leaves it to the operator.")
        .await;
    terminal.shows("person is gone.").await;
    assert_eq!(terminal.ends().await.code(), Some(0));
    terminal.is_sane().unwrap();
    assert!(
        stage
            .sessions(&namespace)
            .get_opt("person")
            .await
            .unwrap()
            .is_none()
    );
}

pub async fn a_limit_is_raised_by_hand_or_not_at_all() {
    let stage = stage().await;
    let namespace = stage.namespace("raised");
    let run = [
        "run",
        &stage.model,
        "--name",
        "raised",
        "--max-cost-per-hour",
        "0.01",
    ];
    let mut terminal = Terminal::run(&stage.srchat_in(&namespace, &run), SIZE).unwrap();
    terminal
        .shows("nothing that fits costs $0.01 an hour or less")
        .await;
    terminal.shows("Raise the limit to $0.").await;
    // The careful answer is the one that Enter gives.
    terminal.press("\r");
    terminal.shows("Nothing was rented.").await;
    assert_eq!(terminal.ends().await.code(), Some(0));
    stage.gone(&namespace, "raised").await;

    // And a terminal that is closed while the price is being read leaves nothing either.
    let mut terminal = Terminal::run(&stage.srchat_in(&namespace, &run), SIZE).unwrap();
    terminal.shows("Raise the limit to $0.").await;
    terminal.signal(Signal::HUP);
    assert_eq!(terminal.ends().await.code(), Some(130));
    stage.gone(&namespace, "raised").await;
}

pub async fn a_key_is_typed_unseen_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let stage = stage().await;
    let folder = tempfile::tempdir().unwrap();
    let mut login = stage.srchat(&["login"]);
    login.current_dir(folder.path());
    let mut terminal = Terminal::run(&login, SIZE).unwrap();
    terminal.shows("RunPod's API key (it is not shown):").await;
    terminal.press(&format!("x\x7f{}\r", stage.runpod.1));
    terminal.shows("the operator has it").await;
    assert_eq!(terminal.ends().await.code(), Some(0));
    assert!(
        !terminal.raw().contains(&stage.runpod.1),
        "the key was shown"
    );
    terminal.is_sane().unwrap();

    let mut terminal = Terminal::run(&login, SIZE).unwrap();
    terminal.shows("RunPod's API key").await;
    terminal.press("half a k\x03");
    assert_eq!(terminal.ends().await.code(), Some(130));
    assert!(!terminal.raw().contains("half"), "what was typed was shown");
    terminal.is_sane().unwrap();
}

pub async fn what_would_be_lost_is_asked_about_first() {
    let stage = serving().await;
    let mut terminal = Terminal::run(&stage.srchat(&["rm", NAME]), SIZE).unwrap();
    terminal
        .shows("End qwen and erase what was uploaded? [y/N]")
        .await;
    terminal.press("\r");
    terminal.shows("Nothing was ended.").await;
    assert_eq!(terminal.ends().await.code(), Some(0));

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a"), "one").unwrap();
    fs::write(at("b"), "two").unwrap();
    let cp = |from: &str, to: &str| {
        let mut cp = stage.srchat(&["cp", from, to]);
        cp.current_dir(folder.path());
        Terminal::run(&cp, SIZE).unwrap()
    };
    assert_eq!(cp("a", "qwen:asked").ends().await.code(), Some(0));
    let mut terminal = cp("b", "qwen:asked");
    terminal
        .shows("another file asked already. Replace it? [y/N]")
        .await;
    terminal.press("y\r");
    assert_eq!(terminal.ends().await.code(), Some(0));
    let mut terminal = cp("qwen:asked", "a");
    terminal.shows("a exists. Replace it? [y/N]").await;
    terminal.press("n\r");
    assert_eq!(terminal.ends().await.code(), Some(7));
    assert_eq!(fs::read_to_string(at("a")).unwrap(), "one");
    let mut terminal = cp("qwen:asked", "a");
    terminal.shows("Replace it?").await;
    terminal.press("y\r");
    assert_eq!(terminal.ends().await.code(), Some(0));
    assert_eq!(fs::read_to_string(at("a")).unwrap(), "two");
}

pub async fn twenty_columns_are_enough() {
    let stage = serving().await;
    let narrow = (24, 20);
    let mut terminal = Terminal::run(&stage.srchat(&["ls"]), narrow).unwrap();
    terminal.shows("Serving").await;
    assert_eq!(terminal.ends().await.code(), Some(0));

    // A line of progress that wrapped would stay behind.
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("a-file-with-a-rather-long-name"),
        vec![7; 8 << 20],
    )
    .unwrap();
    let mut cp = stage.srchat(&["cp", "a-file-with-a-rather-long-name", "qwen:narrow"]);
    cp.current_dir(folder.path());
    let mut terminal = Terminal::run(&cp, narrow).unwrap();
    terminal.shows("qwen:narrow: 8.0 MiB").await;
    assert_eq!(terminal.ends().await.code(), Some(0));
    let first = terminal
        .everything()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(
        first.starts_with("qwen:narrow: 8.0 Mi"),
        "{}",
        terminal.everything()
    );
}
