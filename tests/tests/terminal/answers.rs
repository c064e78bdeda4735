//! What an answer looks like, on every kind of terminal.

use srchat_tests::scripted_engine::{Pace, Script};

use crate::world::{World, says, screen};

const MARKDOWN: &str = "# Fruit\n\nAn **apple** a day, says `doctor()`:\n\n- one\n  - two, which is a rather long item that goes over the end of the line\n\n\
    ```rust\nlet a = 1;\n```\n\n| Fruit | Price |\n|---|---|\n| Apple | 1 |\n\n> Eat *it*.\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_drawn_as_markdown_and_the_prompt_is_back() {
    let world = World::saying(MARKDOWN).await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("What is fruit?\r");
    let shown = "> What is fruit?\nFruit\n\nAn apple a day, says doctor():\n\n\
        \u{2022} one\n  \u{2022} two, which is a rather long item that goes over the end of the line\n\n\
        ```rust\nlet a = 1;\n```\n\nFruit \u{2502} Price\n\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{253c}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\nApple \u{2502} 1\n\n\u{2502} Eat it.\n>";
    terminal.becomes(&screen(&world, shown)).await;
    let styled = terminal.styled();
    assert!(
        styled.contains("\x1b[1mapple") && !styled.contains("**"),
        "{styled}"
    );
    // Nothing that was shown is cleared or drawn again.
    let raw = terminal.raw();
    assert!(
        !raw.contains("\x1b[2J") && !raw.contains("\x1b[3J") && !raw.contains("\x1b[?1049h"),
        "{raw}"
    );
    assert_eq!(raw.matches("apple").count(), 1, "{raw}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_columns_are_enough() {
    let world = World::saying(MARKDOWN).await;
    let terminal = world.attach_sized(&["--no-history"], (60, 20)).await;
    terminal.press("What?\r");
    let shown = "> What?\nFruit\n\nAn apple a day,\nsays doctor():\n\n\u{2022} one\n  \u{2022} two, which is a\n    rather long\n    item that goes\n    \
        over the end of\n    the line\n\n```rust\nlet a = 1;\n```\n\nFruit \u{2502} Price\n\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{253c}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\u{2500}\nApple \u{2502} 1\n\n\u{2502} Eat it.\n>";
    terminal.shows("Eat it.\n>").await;
    let screen = terminal.screen();
    assert!(screen.ends_with(shown), "{screen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_utf_8_and_without_colour_everything_is_still_there() {
    let world =
        World::saying("An **apple** \u{2014} \u{201c}one\u{201d}\n- item \u{6f22}\n> said\n").await;
    let mut command = world.srchat(&["attach", &world.name, "--no-history"]);
    command.env("LC_ALL", "C").env("NO_COLOR", "1");
    let terminal = srchat_tests::terminal::Terminal::run(&command, (24, 80)).unwrap();
    terminal.shows("\n>").await;
    terminal.press("What?\r");
    let shown = "> What?\nAn **apple** - \"one\"\n- item ?\n| said\n>";
    terminal.becomes(&screen(&world, shown)).await;
    let raw = terminal.raw();
    let coloured = raw.contains("\x1b[1m") || raw.contains("\x1b[2m") || raw.contains("\x1b[3");
    assert!(!coloured, "{raw:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_model_thinks_is_dim_and_can_be_folded_and_unfolded() {
    let reasoning = Some(("reasoning", "Fruit grows on trees.".to_owned()));
    let world = World::new(Script {
        reasoning,
        ..says("An apple.")
    })
    .await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("What?\r");
    terminal
        .becomes(&screen(
            &world,
            "> What?\nFruit grows on trees.\n\nAn apple.\n>",
        ))
        .await;
    assert!(
        terminal.styled().contains("\x1b[2mFruit"),
        "{}",
        terminal.styled()
    );
    terminal.press("/think\r");
    terminal.shows("is folded").await;
    terminal.press("And?\r");
    terminal
        .shows("> And?\n(thought for 0 s; /think last shows it)\n\nAn apple.\n>")
        .await;
    terminal.press("/think last\r");
    terminal
        .shows("/think last\nFruit grows on trees.\n>")
        .await;
    // What was thought is not sent back.
    assert!(!world.heard().to_string().contains("trees"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_while_an_answer_comes_is_below_it_and_then_at_the_prompt() {
    let world = World::new(Script {
        pace: Pace::Stepped,
        ..says("A short one.\n\nThe end of it.")
    })
    .await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("What?\r");
    world.engine.step(2);
    terminal.shows("> What?\nA short").await;
    terminal.press("second\rthi");
    terminal
        .becomes(&screen(&world, "> What?\nA short\n(1 message waits) > thi"))
        .await;
    world.engine.step(1000);
    terminal.press("rd");
    terminal
        .shows("> second\nA short one.\n\nThe end of it.\n> third")
        .await;
    assert_eq!(world.heard()[2]["content"], "second");
    terminal.press("\r");
    world.asked(3).await;
    assert_eq!(world.heard()[4]["content"], "third");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_lines_cost_no_memory_but_their_own() {
    let line = |at: usize| format!("- **item** {at} of a list that goes on and on, `with code`\n");
    let lines = |from: usize| (from..from + 100).map(line).collect();
    let tokens: Vec<String> = (0..100_000).step_by(100).map(lines).collect();
    let bytes: usize = tokens.iter().map(String::len).sum();
    let world = World::new(Script {
        tokens,
        ..Script::default()
    })
    .await;
    let terminal = world.attach(&["--no-history"]).await;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", terminal.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap()
            .to_owned();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    };
    let before = peak();
    terminal.press("Go on\r");
    terminal
        .shows("item 99999 of a list that goes on and on, with code\n>")
        .await;
    let grown = peak() - before;
    // The answer itself stays, since the model is shown it with the next question; a vector that grows has twice the room.
    assert!(
        grown < 3 * bytes + (8 << 20),
        "{grown} bytes more for an answer of {bytes}"
    );
}
