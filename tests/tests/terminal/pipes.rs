//! Without a terminal: plain text and nothing else, and exit codes that programs can tell apart.

use srchat_tests::scripted_engine::{Fault, Script};

use crate::world::{World, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_through_pipes_is_the_answers_and_nothing_else() {
    let reasoning = Some(("reasoning", "Hm.".to_owned()));
    let world = World::new(Script {
        reasoning,
        ..says("# An **apple** \u{2014} one\n")
    })
    .await;
    let output = world
        .told(
            &["attach", &world.name, "--no-history"],
            "First?\n\nSecond?\n",
        )
        .await;
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "# An **apple** \u{2014} one\n# An **apple** \u{2014} one\n"
    );
    assert_eq!(world.heard().as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_question_takes_files_pictures_a_schema_and_standard_input() {
    let world = World::saying("Fine.").await;
    let home = world.home.path();
    std::fs::write(home.join("notes.txt"), "apples").unwrap();
    std::fs::write(home.join("schema.json"), r#"{"type":"object"}"#).unwrap();
    let arguments = [
        "ask",
        &world.name,
        "-",
        "--file",
        "notes.txt",
        "--schema",
        "schema.json",
        "--system",
        "Brief.",
        "--max-tokens",
        "9",
    ];
    let output = world.told(&arguments, "What is it?").await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Fine.\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let request = world.engine.seen().last().unwrap().body.clone();
    assert_eq!(
        request["messages"][1]["content"],
        "File notes.txt:\napples\n\nWhat is it?"
    );
    assert_eq!(request["max_tokens"], 9);
    assert_eq!(request["response_format"]["type"], "json_schema");
    let json = world.runs(&["ask", &world.name, "What?", "--json"]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["choices"][0]["message"]["content"], "Fine.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_a_sentence_and_an_exit_code() {
    let world = World::saying("Fine.").await;
    let code = async |arguments: &[&str]| {
        let output = world.runs(arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.lines().any(|line| line.starts_with("error: ")),
            "{said}"
        );
        assert!(output.stdout.is_empty());
        output.status.code().unwrap()
    };
    let name = world.name.as_str();
    assert_eq!(code(&["ask", name, "a", "--temperature", "3"]).await, 2);
    assert_eq!(code(&["ask", name, "a", "--image", "missing.png"]).await, 3);
    assert_eq!(code(&["ask", "no-such-session", "a"]).await, 3);
    world.engine.follow(Script {
        fault: Some(Fault::DiesAfter(2)),
        ..says("A long answer.")
    });
    let output = world.runs(&["ask", name, "a"]).await;
    assert_eq!(
        output.status.code(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    world
        .publish("srchat_abcd1234_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC")
        .await;
    assert_eq!(code(&["ask", name, "a"]).await, 5);
}
