//! What keys do.

use std::os::unix::fs::PermissionsExt as _;

use srchat_tests::scripted_engine::{Pace, Script};

use crate::world::{World, says, screen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_have_lines_however_they_are_made() {
    let world = World::saying("Yes.").await;
    let terminal = world.attach(&["--no-history"]).await;
    // Alt-Enter, Ctrl-J, Shift-Enter as the kitty protocol sends it, a backslash and Enter.
    terminal.press("one\x1b\rtwo\nthree\x1b[13;2ufour\\\rfive");
    terminal
        .becomes(&screen(&world, "> one\n  two\n  three\n  four\\\n  five"))
        .await;
    terminal.press("\r");
    terminal.shows("Yes.\n>").await;
    assert_eq!(world.heard()[0]["content"], "one\ntwo\nthree\nfour\nfive");
    terminal.paste("six\nseven\n\neight");
    terminal.shows("eight").await;
    terminal.press("\r");
    world.asked(2).await;
    assert_eq!(world.heard()[2]["content"], "six\nseven\n\neight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_the_answer_and_twice_at_the_prompt_leaves() {
    let world = World::new(Script {
        pace: Pace::Stepped,
        ..says("A very long answer indeed.")
    })
    .await;
    let mut terminal = world.attach(&["--no-history"]).await;
    terminal.press("Go on\r");
    world.engine.step(2);
    terminal.shows("A very").await;
    terminal.press("\x03");
    terminal.shows("(stopped)\n>").await;
    world.engine.step(1000);
    terminal.press("And\r");
    world.asked(2).await;
    // What was said before it was stopped is part of the conversation.
    assert!(
        world.heard()[1]["content"]
            .as_str()
            .unwrap()
            .starts_with("A very"),
        "{}",
        world.heard()
    );
    terminal.shows("indeed.\n>").await;
    terminal.press("a draft\x03");
    terminal
        .shows("Ctrl-C again, or /exit, leaves the chat.\n>")
        .await;
    terminal.press("\x03");
    assert!(terminal.ends().await.success());
    terminal.is_sane().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_d_leaves_only_an_empty_line() {
    let world = World::saying("Yes.").await;
    let mut terminal = world.attach(&["--no-history"]).await;
    terminal.press("ab\x01\x04\r");
    terminal.shows("Yes.\n>").await;
    assert_eq!(world.heard()[0]["content"], "b");
    terminal.press("\x04");
    assert!(terminal.ends().await.success());
    terminal.is_sane().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tab_completes_commands_and_paths() {
    let world = World::saying("Yes.").await;
    std::fs::write(world.home.path().join("a cat.txt"), "miau").unwrap();
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("/upl\t");
    terminal.becomes(&screen(&world, "> /upload")).await;
    terminal.press("a\t");
    terminal
        .becomes(&screen(&world, "> /upload a\\ cat.txt"))
        .await;
    terminal.press("\r");
    terminal.shows("a cat.txt is there: 4 B").await;
    terminal.press("/files\r");
    terminal.shows("4 B  a cat.txt\n1 files").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_g_opens_the_draft_in_an_editor_and_leaves_no_file() {
    let world = World::saying("Yes.").await;
    let editor = world.home.path().join("editor");
    std::fs::write(
        &editor,
        "#!/bin/sh\nprintf 'and more\\n' >>\"$1\"\nls -l \"$1\" >seen\n",
    )
    .unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = world.srchat(&["attach", &world.name, "--no-history"]);
    command.env("EDITOR", &editor);
    let terminal = srchat_tests::terminal::Terminal::run(&command, (24, 80)).unwrap();
    terminal.shows("\n>").await;
    terminal.press("Say this \x07");
    terminal.shows("> Say this and more").await;
    terminal.press("\r");
    terminal.shows("Yes.\n>").await;
    assert_eq!(world.heard()[0]["content"], "Say this and more");
    let seen = std::fs::read_to_string(world.home.path().join("seen")).unwrap();
    assert!(seen.starts_with("-rw-------"), "{seen}");
    let left = std::fs::read_dir(world.home.path()).unwrap().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("srchat-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dragged_picture_goes_with_the_message() {
    let world = World::saying("A cat.").await;
    let mut route = world.route();
    route.host.as_mut().unwrap().abilities.vision = true;
    world.gateway.apply(route);
    let picture = world.home.path().join("my cat.png");
    std::fs::write(&picture, b"\x89PNG\r\n\x1a\n").unwrap();
    std::fs::write(world.home.path().join("fake.png"), b"#!/bin/sh").unwrap();
    let terminal = world.attach(&["--no-history"]).await;
    terminal.paste(&picture.to_str().unwrap().replace(' ', "\\ "));
    terminal.press(" What is this?\r");
    terminal.shows("A cat.\n>").await;
    let content = world.heard()[0]["content"].clone();
    assert_eq!(
        content[0]["image_url"]["url"],
        "data:image/png;base64,iVBORw0KGgo="
    );
    assert_eq!(content[1]["text"], "What is this?");
    terminal.press("/image fake.png\r");
    terminal
        .shows("error: fake.png is not a PNG, JPEG, WebP or GIF\nhint: convert it first")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conversation_can_be_changed_counted_and_taken_along() {
    let world = World::saying("One `x`.\n\n```sh\necho hi\n```\n").await;
    let terminal = world.attach(&["--no-history"]).await;
    let said = async |line: &str, shown: &str| {
        terminal.press(&format!("{line}\r"));
        terminal.shows(shown).await;
    };
    said("/undo", "error: there is no answer yet").await;
    said("/system Be brief.", "System prompt: Be brief.").await;
    said("/set temperature 0.5", "temperature          0.5").await;
    said(
        "/set temperature 5",
        "error: temperature is a number from 0 to 2, not 5",
    )
    .await;
    said("First?", "echo hi\n```\n>").await;
    let request = world.engine.seen().last().unwrap().body.clone();
    assert_eq!(
        (&request["temperature"], &request["messages"][0]["content"]),
        (&0.5.into(), &"Be brief.".into())
    );
    said("/tokens", "written (").await;
    said("/cost", "This session has cost $0.05").await;
    said("/model", "org/model, reads 4096 tokens at once").await;
    said("/status", "state     Serving").await;
    said("/raw", "\nOne `x`.\n\n```sh\necho hi").await;
    said(
        "/copy code",
        "8 characters are on their way to the clipboard",
    )
    .await;
    assert!(terminal.raw().contains("\x1b]52;c;ZWNobyBoaQo=\x07"));
    said("/save", "The answer is in ").await;
    said("/export chat.json", "The conversation is in chat.json.").await;
    said("/keep", "goes on when you leave").await;
    let exported = std::fs::read_to_string(world.home.path().join("chat.json")).unwrap();
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(
        (
            &exported["turns"][0]["said"],
            &exported["turns"][0]["system"]
        ),
        (&"First?".into(), &"Be brief.".into())
    );
    said("/regen", "> /regen\nOne x.").await;
    world.asked(2).await;
    assert_eq!(world.heard().as_array().unwrap().len(), 2);
    terminal.press("/edit\r");
    terminal.shows("\n> First?").await;
    terminal.press("\x7f again?\r");
    world.asked(3).await;
    let heard = world.heard();
    assert_eq!(
        (heard.as_array().unwrap().len(), &heard[1]["content"]),
        (2, &"First again?".into())
    );
    said("/undo", "Taken back: First again?").await;
    said("/exot", "there is no /exot; did you mean /exit?").await;
    said("/help", "/keep").await;
}
