//! What goes wrong while somebody chats: a sentence, a way out, and nothing lost.

use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use srchat_operator::route::{Expiry, Route, TokenHash};
use srchat_tests::scripted_engine::{Fault, Pace, Script};
use srchat_tests::terminal::Terminal;

use crate::world::{OTHER_TOKEN, TOKEN, World, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_stays_as_far_as_it_came() {
    let world = World::new(Script {
        fault: Some(Fault::DiesAfter(2)),
        ..says("A long answer.")
    })
    .await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("What?\r");
    terminal.shows("\nhint: /regen asks again").await;
    assert!(
        terminal.screen().contains("> What?\nA long ans\nerror: "),
        "{}",
        terminal.screen()
    );
    world.engine.follow(says("A whole answer."));
    terminal.press("/regen\r");
    terminal.shows("> /regen\nA whole answer.\n>").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_away_is_waited_for_and_the_draft_stays() {
    let mut world = World::saying("Here I am.").await;
    let terminal = world.attach(&["--no-history"]).await;
    world.stop_gateway().await;
    terminal.press("Are you there?\r");
    terminal.shows("the gateway cannot be reached").await;
    terminal.press("a draft");
    terminal.shows("> a draft").await;
    world.start_gateway().await;
    terminal
        .shows("> Are you there?\nHere I am.\n> a draft")
        .await;
    assert!(
        !terminal.screen().contains("error"),
        "{}",
        terminal.screen()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_in_the_middle_of_an_answer_costs_neither_its_beginning_nor_the_draft()
{
    let mut world = World::new(Script {
        pace: Pace::Stepped,
        ..says("A long answer that goes on.")
    })
    .await;
    let wire = world.behind_a_wire().await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("What?\r");
    world.engine.step(2);
    terminal.shows("> What?\nA long").await;
    terminal.press("a draft");
    terminal.shows("> a draft").await;
    wire.cut();
    world.stop_gateway().await;
    terminal.shows("\nhint: /regen asks again").await;
    terminal.shows("\n> a draft").await;
    let screen = terminal.screen();
    assert!(screen.contains("> What?\nA long ans\nerror: "), "{screen}");

    world.start_gateway().await;
    wire.mend();
    world.engine.follow(says("A whole answer."));
    terminal.press("\r");
    terminal.shows("> a draft\nA whole answer.\n>").await;
    let heard = world.heard();
    let said: Vec<&str> = (0..3)
        .filter_map(|at| heard[at]["content"].as_str())
        .collect();
    assert_eq!(said, ["What?", "A long ans", "a draft"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_goes_on_where_it_was() {
    let world = World::saying("Yes.").await;
    let wire = world.behind_a_wire().await;
    // No part of it is like another, so that a mistake in the place would show.
    let content: Vec<u8> = (0..6_u32 << 20).flat_map(u32::to_le_bytes).collect();
    std::fs::write(world.home.path().join("big"), &content).unwrap();
    wire.cut_after(16 << 20);
    let to = format!("{}:there", world.name);
    let output = world.runs(&["cp", "big", &to]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(
        std::fs::read(world.host.files.join("there")).unwrap(),
        content
    );
    let again = wire.sent().saturating_sub(content.len() as u64);
    assert!(
        again < 12 << 20,
        "{again} bytes were sent twice of the 16 MiB that had come: {said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_could_not_be_sent_is_back_at_the_prompt() {
    let world = World::saying("Yes.").await;
    let terminal = world.attach(&["--no-history"]).await;
    world.stop_gateway().await;
    terminal.press("Are you there?\r");
    terminal.shows("the gateway cannot be reached").await;
    terminal.press("\x03");
    terminal.shows("(stopped)\n> Are you there?").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_replaced_is_read_again_and_one_that_was_revoked_is_said() {
    let world = World::saying("Yes.").await;
    let terminal = world.attach(&["--no-history"]).await;
    let other = || Route {
        token: TokenHash::of(OTHER_TOKEN),
        ..world.route()
    };
    world.gateway.apply(other());
    world.publish(OTHER_TOKEN).await;
    terminal.press("First?\r");
    terminal.shows("> First?\nYes.\n>").await;
    world.publish(TOKEN).await;
    world.gateway.apply(Route {
        token: TokenHash::of("srchat_abcd1234_DDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD"),
        ..world.route()
    });
    terminal.press("Second?\r");
    terminal
        .shows("hint: the session's token was revoked or the session has ended")
        .await;
    terminal.shows("\n> Second?").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_context_says_how_to_go_on() {
    let refusal = r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.","type":"BadRequestError","code":400}}"#;
    let world = World::saying("Yes.").await;
    let terminal = world.attach(&["--no-history"]).await;
    world.engine.follow(Script {
        fault: Some(Fault::Refuses(400, refusal)),
        ..Script::default()
    });
    terminal.press("What?\r");
    terminal
        .shows("hint: the model can read no more: /undo")
        .await;
    terminal.shows("\n> What?").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_near_is_told_above_the_draft() {
    let world = World::saying("Yes.").await;
    let terminal = world.attach(&["--no-history"]).await;
    terminal.press("a draft");
    terminal.shows("\n> a draft").await;
    let time = Timestamp::now() + SignedDuration::from_secs(8 * 60 + 30);
    world.gateway.apply(Route {
        expiry: Some(Expiry {
            time,
            reason: "Lifetime".into(),
        }),
        ..world.route()
    });
    terminal
        .shows("This session ends in 9 minutes, when its lifetime is over")
        .await;
    terminal.shows("\n> a draft").await;
    terminal.press(" and more\r");
    world.asked(1).await;
    assert_eq!(world.heard()[0]["content"], "a draft and more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_leave_the_terminal_as_it_was() {
    let world = World::new(Script {
        pace: Pace::Stepped,
        ..says("A long answer.")
    })
    .await;
    for signal in [Signal::TERM, Signal::HUP] {
        // At the prompt, and in the middle of an answer.
        let mut terminal = world.attach(&["--no-history"]).await;
        terminal.press("a draft");
        terminal.shows("> a draft").await;
        assert!(terminal.is_sane().is_err());
        terminal.signal(signal);
        assert_eq!(terminal.ends().await.code(), Some(130));
        terminal.is_sane().unwrap();

        let mut terminal = world.attach(&["--no-history"]).await;
        terminal.press("What?\r");
        world.engine.step(1);
        terminal.shows("> What?\nA").await;
        terminal.signal(signal);
        assert_eq!(terminal.ends().await.code(), Some(130));
        terminal.is_sane().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_gone_ends_the_chat_although_no_signal_tells_it() {
    let world = World::saying("Anything.").await;
    let chat = world.srchat(&["attach", &world.name, "--no-history"]);
    let ended = world.home.path().join("ended");
    // The shell is the terminal's first process, the one that a hang-up is told to; it passes nothing on.
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            r#"trap '' HUP; out=$1; shift; "$@"; echo $? >"$out""#,
            "sh",
        ])
        .arg(&ended)
        .arg(chat.get_program())
        .args(chat.get_args())
        .envs(
            chat.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(world.home.path());
    let mut terminal = Terminal::run(&shell, (24, 80)).unwrap();
    terminal.shows("\n>").await;
    terminal.hang_up();
    terminal.ends().await;
    assert_eq!(std::fs::read_to_string(ended).unwrap(), "130\n");
}
