//! Files to and from a session, as a person copies them.

use std::fs;
use std::path::Path;
use std::process::Command;

use srchat_tests::skipped;

use super::stage::{NAME, Ran, Run as _, Stage, serving};

fn cp(stage: &Stage, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = stage.srchat(&[&["cp"], arguments].concat());
    command.current_dir(folder).ran()
}

/// Bytes that do not repeat, so that a mistake in the order would show.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

pub async fn a_file_comes_back_as_it_was() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let content = bytes(3 << 20, 7);
    fs::write(at("a file, ü.bin"), &content).unwrap();
    let up = cp(stage, folder.path(), &["a file, ü.bin", "qwen:one/"]);
    assert_eq!((up.code, up.out.as_str()), (0, ""), "{up:#?}");
    assert!(
        up.err.contains("qwen:one/a file, ü.bin: 3.0 MiB, SHA-256 "),
        "{up:#?}"
    );
    let down = cp(
        stage,
        folder.path(),
        &["qwen:one/a file, ü.bin", "back", "-o", "json"],
    )
    .json();
    assert_eq!(fs::read(at("back")).unwrap(), content);
    assert_eq!(down["bytes"], 3 << 20);
    assert_eq!(down["sha256"], down["files"][0]["sha256"]);
    // Nothing else is left lying about.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

    let name = cp(stage, folder.path(), &["a file, ü.bin", "qwen:../x"]);
    name.fails(2, "is no name for a file in a session", "plain name");
    let both = cp(stage, folder.path(), &["qwen:a", "qwen:b"]);
    both.fails(2, "one side must be the files of a session", "./a:b");
    let none = cp(stage, folder.path(), &["no-such-file", "qwen:"]);
    assert_eq!(none.code, 3, "{none:#?}");
    let near = cp(stage, folder.path(), &["qwen:one/a file, u.bin", "x"]);
    near.fails(
        3,
        "there is no file one/a file, u.bin in session qwen",
        "did you mean qwen:one/a file, ü.bin?",
    );
}

pub async fn folders_and_patterns_go_both_ways() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("docs/deep")).unwrap();
    for name in ["docs/a.txt", "docs/b.csv", "docs/deep/c.txt"] {
        fs::write(at(name), name).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", at("docs/link")).unwrap();
    let up = cp(stage, folder.path(), &["docs", "qwen:two/"]);
    assert!(
        up.err.contains("docs/link is a link or a device: left out"),
        "{up:#?}"
    );
    assert!(up.err.contains("3 files, "), "{up:#?}");
    up.done();

    cp(stage, folder.path(), &["qwen:two/docs", "whole"]).done();
    assert_eq!(
        fs::read_to_string(at("whole/deep/c.txt")).unwrap(),
        "docs/deep/c.txt"
    );
    assert_eq!(fs::read_dir(at("whole")).unwrap().count(), 3);
    fs::create_dir(at("some")).unwrap();
    cp(stage, folder.path(), &["qwen:two/docs/*.txt", "some"]).done();
    assert_eq!(fs::read_dir(at("some")).unwrap().count(), 1);
    cp(
        stage,
        folder.path(),
        &["docs/*.csv", "docs/a.txt", "qwen:three"],
    )
    .done();
    let listed = stage.srchat(&["files", "ls", "qwen:three"]).ran().done();
    assert!(
        listed.contains("three/a.txt") && listed.contains("three/b.csv"),
        "{listed}"
    );
}

pub async fn a_thousand_small_files_are_one_transfer() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let many = folder.path().join("many");
    for number in 0..1000 {
        let inside = many.join(format!("{}", number % 10));
        fs::create_dir_all(&inside).unwrap();
        fs::write(
            inside.join(format!("{number}.txt")),
            format!("file {number}"),
        )
        .unwrap();
    }
    let up = cp(stage, folder.path(), &["many", "qwen:many", "-o", "json"]).json();
    assert_eq!(up["files"].as_array().unwrap().len(), 1000);
    let down = cp(stage, folder.path(), &["qwen:many", "back", "-o", "json"]).json();
    assert_eq!(down["files"].as_array().unwrap().len(), 1000);
    assert_eq!(
        fs::read_to_string(folder.path().join("back/7/777.txt")).unwrap(),
        "file 777"
    );
    // The same again brings nothing new and says so without a question.
    cp(stage, folder.path(), &["many", "qwen:many", "--force"]).done();
    stage.srchat(&["files", "rm", "qwen:many/"]).ran().done();
}

pub async fn what_was_cut_off_goes_on() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(6 << 20, 11);
    fs::write(folder.path().join("big"), &content).unwrap();
    cp(stage, folder.path(), &["big", "qwen:cut"]).done();
    let whole = cp(stage, folder.path(), &["qwen:cut", "first", "-o", "json"]).json();
    let sum = whole["sha256"].as_str().unwrap();
    // As a client leaves it that was killed: the beginning, under the temporary name.
    let part = folder.path().join(format!(".again.{sum:.16}.part"));
    fs::write(&part, &content[..4 << 20]).unwrap();
    cp(stage, folder.path(), &["qwen:cut", "again"]).done();
    assert_eq!(fs::read(folder.path().join("again")).unwrap(), content);
    assert!(!part.exists());
    // A beginning that is not its own is noticed, and nothing of it gets the name.
    let part = folder.path().join(format!(".wrong.{sum:.16}.part"));
    fs::write(&part, bytes(4 << 20, 12)).unwrap();
    cp(stage, folder.path(), &["qwen:cut", "wrong"]).fails(7, "arrived damaged", "");
    assert!(!folder.path().join("wrong").exists() && !part.exists());
    // And the same command does it anew.
    cp(stage, folder.path(), &["qwen:cut", "wrong"]).done();
}

pub async fn what_is_there_is_replaced_by_force_only() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a"), "one").unwrap();
    fs::write(at("b"), "two").unwrap();
    cp(stage, folder.path(), &["a", "qwen:mine"]).done();
    // The same content is what an earlier try has brought.
    cp(stage, folder.path(), &["a", "qwen:mine"]).done();
    let other = cp(stage, folder.path(), &["b", "qwen:mine"]);
    other.fails(
        7,
        "the session has another file mine already",
        "--force replaces it",
    );
    cp(stage, folder.path(), &["qwen:mine", "b"]).fails(7, "b exists", "--force replaces it");
    assert_eq!(fs::read_to_string(at("b")).unwrap(), "two");
    cp(stage, folder.path(), &["b", "qwen:mine", "--force"]).done();
    cp(stage, folder.path(), &["qwen:mine", "a", "--force"]).done();
    assert_eq!(fs::read_to_string(at("a")).unwrap(), "two");

    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/mine"), "keep me").unwrap();
    let taken = cp(stage, folder.path(), &["qwen:min*", "d"]);
    taken.fails(
        7,
        "d/mine exists already, and nothing was copied",
        "--force",
    );
    assert_eq!(fs::read_to_string(at("d/mine")).unwrap(), "keep me");
}

pub async fn files_are_listed_and_removed() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["x1.log", "x2.log", "x.txt"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    cp(stage, folder.path(), &["x*", "qwen:gone"]).done();
    let list = stage
        .srchat(&["files", "ls", "qwen:gone", "-o", "json"])
        .ran()
        .json();
    assert_eq!(list["files"][0]["name"], "gone/x.txt");
    assert_eq!(list["files"].as_array().unwrap().len(), 3);
    assert!(list["quota"].as_u64().unwrap() > list["used"].as_u64().unwrap());

    stage
        .srchat(&["files", "rm", "qwen:gone/*.log"])
        .ran()
        .done();
    let list = stage
        .srchat(&["files", "ls", &format!("{NAME}:gone")])
        .ran();
    assert!(
        list.out.contains("gone/x.txt") && !list.out.contains("x1.log"),
        "{list:#?}"
    );
    stage
        .srchat(&["files", "rm", "qwen:gone/x.txt"])
        .ran()
        .done();
    let again = stage.srchat(&["files", "rm", "qwen:gone/x.txt"]).ran();
    again.fails(3, "there is no file gone/x.txt in session qwen", "");
    stage.srchat(&["files", "rm", "x.txt"]).ran().fails(
        2,
        "x.txt is not a file of a session",
        "NAME:path",
    );
}

pub async fn a_full_disk_is_a_sentence_and_leaves_no_half_file() {
    let stage = serving().await;
    let folder = tempfile::tempdir().unwrap();
    // A disk of its own, in a mount namespace of its own, that is gone with the command.
    let small = format!(
        "mount -t tmpfs -o size=256k none '{0}' && cd '{0}' && \"$@\"; code=$?; ls -A; exit $code",
        folder.path().display()
    );
    let possible = Command::new("unshare")
        .args(["--mount", "--", "sh", "-c", "mount -t tmpfs none /mnt"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        skipped::because("a small disk needs the right to mount");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("big"), bytes(1 << 20, 3)).unwrap();
    cp(stage, source.path(), &["big", "qwen:toobig"]).done();
    let plain = stage.srchat(&["cp", "qwen:toobig", "."]);
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--", "sh", "-c", &small, "sh"]);
    inside.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside
        .ran()
        .fails(7, "No space left on device", "the disk is full");
}
