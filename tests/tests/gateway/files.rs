//! Files, up and down.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use srchat_tests::scripted_engine::Script;

use crate::world::{World, json_of};

fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mebibytes_go_up_and_come_down_with_equal_sha_256() {
    let world = World::serving(Script::default()).await;
    let data = bytes(5 << 20);
    let (status, written) = json_of(
        world
            .put("files/a%20b/data.bin", data.clone())
            .header("x-content-sha256", sum(&data)),
    )
    .await;
    assert_eq!(status, 201);
    assert_eq!(
        written,
        json!({"name": "a b/data.bin", "size": data.len(), "sha256": sum(&data)})
    );
    let answer = world.get("files/a%20b/data.bin").send().await.unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["x-content-sha256"].to_str().unwrap()
        ),
        (200, &*sum(&data))
    );
    assert_eq!(sum(&answer.bytes().await.unwrap()), sum(&data));

    let head = world
        .http
        .head(world.url("files/a%20b/data.bin"))
        .bearer_auth(crate::world::TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(
        head.headers()["content-length"],
        data.len().to_string().as_str()
    );
    let (_, list) = json_of(world.get("files/")).await;
    assert_eq!(list["files"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&list["files"][0]["name"], &list["files"][0]["sha256"]),
        (&json!("a b/data.bin"), &json!(sum(&data)))
    );
    assert_eq!(list["used"], data.len());

    let (status, _) = json_of(world.put("files/a%20b/data.bin", "shorter")).await;
    assert_eq!(status, 200, "an existing file is replaced");
    assert_eq!(
        world
            .get("files/a%20b/data.bin")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "shorter"
    );
    let delete = world
        .http
        .delete(world.url("files/a%20b/data.bin"))
        .bearer_auth(crate::world::TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(delete.status(), 204);
    assert!(
        !world.host.files.join("a b").exists(),
        "the folder goes with its last file"
    );
    assert_eq!(json_of(world.get("files/a%20b/data.bin")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_read_and_an_upload_goes_on_where_it_broke_off() {
    let world = World::serving(Script::default()).await;
    let data = bytes(1 << 20);
    let part = |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{}", to - 1, data.len());
        world
            .put("files/x", data[from..to].to_vec())
            .header("content-range", range)
            .header("x-content-sha256", sum(&data))
    };
    let half = data.len() / 2;
    let (status, so_far) = json_of(part(0, half)).await;
    assert_eq!((status, &so_far["size"]), (202, &json!(half)));
    assert_eq!(
        json_of(world.get("files/x")).await.0,
        404,
        "what is unfinished is not there"
    );
    assert_eq!(json_of(world.get("files/")).await.1["files"], json!([]));
    assert_eq!(
        json_of(part(half + 1, data.len())).await.0,
        409,
        "a gap is refused"
    );
    let head = async |name: &str, sum: String| {
        let head = world.http.head(world.url(name));
        let head = head.bearer_auth(crate::world::TOKEN);
        let answer = head.header("x-content-sha256", sum).send().await.unwrap();
        let offset = answer.headers().get("upload-offset").cloned();
        (answer.status().as_u16(), offset)
    };
    assert_eq!(
        head("files/x", sum(&data)).await,
        (404, Some(half.to_string().parse().unwrap())),
        "how far it has come is told to whoever knows what it shall be"
    );
    assert_eq!(head("files/x", sum(b"other")).await, (404, None));
    assert_eq!(
        json_of(part(half - 1000, half + 1000)).await.0,
        202,
        "what has come may come again"
    );
    let half = half + 1000;
    assert_eq!(json_of(part(half, data.len())).await.0, 201);
    assert_eq!(head("files/x", sum(&data)).await, (200, None));
    let changed = world.get("files/x").header("range", "bytes=100-");
    let changed = changed.header("if-range", "\"another\"").send().await;
    assert_eq!(
        changed.unwrap().status(),
        200,
        "parts of two files do not fit"
    );

    let answer = world
        .get("files/x")
        .header("range", "bytes=100-199")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 206);
    assert_eq!(
        answer.headers()["content-range"],
        format!("bytes 100-199/{}", data.len()).as_str()
    );
    assert_eq!(answer.bytes().await.unwrap(), data[100..200]);
    let beyond = world
        .get("files/x")
        .header("range", format!("bytes={}-", data.len()))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (beyond.status().as_u16(), &beyond.headers()["content-range"]),
        (416, &format!("bytes */{}", data.len()).parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_than_announced_leave_nothing_behind() {
    let world = World::serving(Script::default()).await;
    let (status, body) = json_of(
        world
            .put("files/x", "abc")
            .header("x-content-sha256", sum(b"abd")),
    )
    .await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (422, Some("digest_mismatch"))
    );
    assert_eq!(std::fs::read_dir(&world.host.files).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_holds_for_all_files_together() {
    let world = World::loading(Script::default()).await;
    let mut route = world.route();
    route.host.as_mut().unwrap().upload_quota = 1 << 20;
    world.gateway.apply(route);
    assert_eq!(json_of(world.put("files/a", bytes(700 << 10))).await.0, 201);
    let (status, body) = json_of(world.put("files/b", bytes(700 << 10))).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (507, Some("quota_exceeded"))
    );
    assert_eq!(
        json_of(world.put("files/a", bytes(900 << 10))).await.0,
        200,
        "a file does not stand in its own way"
    );
    // Without a length it is noticed on the way.
    let pieces = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(bytes(100 << 10))));
    let (status, _) = json_of(world.put("files/c", reqwest::Body::wrap_stream(pieces))).await;
    assert_eq!(status, 507);
    let (_, list) = json_of(world.get("files/")).await;
    assert_eq!(list["files"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_leads_out_of_the_folder() {
    let world = World::serving(Script::default()).await;
    let outside = world.host.files.parent().unwrap().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, world.host.files.join("link")).unwrap();
    std::os::unix::fs::symlink(
        world.host.files.parent().unwrap(),
        world.host.files.join("folder"),
    )
    .unwrap();
    // As they stand on the wire: a client library would tidy them up.
    for name in [
        "%2e%2e/outside",
        "%2e%2e%2foutside",
        "a/%2e%2e/%2e%2e/outside",
        "%2fetc/passwd",
        "link",
        "folder/outside",
        "a%00b",
        "a%0ab",
    ] {
        for verb in ["GET", "PUT", "DELETE", "HEAD"] {
            let status = raw(&world, verb, name).await;
            let linked_put = verb == "PUT" && (name == "link" || name == "folder/outside");
            assert!(
                status == 404 || (linked_put && status == 409),
                "{verb} {name}: {status}"
            );
        }
    }
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret");
    let (_, list) = json_of(world.get("files/")).await;
    assert_eq!(list["files"], json!([]), "links are not listed");
}

async fn raw(world: &World, verb: &str, name: &str) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = world.connect(&rustls::version::TLS13).await.unwrap();
    let token = crate::world::TOKEN;
    let head = format!(
        "{verb} /team-a/vision/files/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    );
    stream
        .write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_counts_as_activity() {
    let world = World::serving(Script::default()).await;
    let (status, _): (u16, Value) = json_of(world.put("files/x", "abc")).await;
    assert_eq!(status, 201);
    let last = world.host.root.join("activity/last");
    let look = async || {
        if last.exists() {
            Ok(())
        } else {
            Err("no activity")
        }
    };
    srchat_tests::eventually::eventually("the activity is reported", crate::world::PATIENCE, look)
        .await;
}

/// A connection that sends this much of an upload's body and is cut.
async fn cut(world: &World, name: &str, data: &[u8], sent: usize) {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = world.connect(&rustls::version::TLS13).await.unwrap();
    let head = format!(
        "PUT /team-a/vision/files/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Content-Sha256: {}\r\nContent-Length: {}\r\n\r\n",
        crate::world::TOKEN,
        sum(data),
        data.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&data[..sent]).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_that_is_cut_goes_on_from_what_came() {
    let world = World::serving(Script::default()).await;
    let data = bytes(24 << 20);
    cut(&world, "large", &data, 17 << 20).await;
    let look = async || {
        let head = world.http.head(world.url("files/large"));
        let head = head.bearer_auth(crate::world::TOKEN);
        let answer = head.header("x-content-sha256", sum(&data)).send().await;
        let offset = answer.unwrap().headers().get("upload-offset").cloned();
        let offset: usize = offset.map_or(0, |offset| offset.to_str().unwrap().parse().unwrap());
        // Four channels carried it: what is told has no gap, or the checksum below would not be right.
        if offset > 8 << 20 {
            Ok(offset)
        } else {
            Err(offset)
        }
    };
    let what = "what came is told";
    let offset = srchat_tests::eventually::eventually(what, crate::world::PATIENCE, look).await;
    assert!(offset <= 17 << 20);
    let (_, list) = json_of(world.get("files/")).await;
    assert_eq!(list["files"], json!([]), "no half file has its name");
    let range = format!("bytes {offset}-{}/{}", data.len() - 1, data.len());
    let rest = world
        .put("files/large", data[offset..].to_vec())
        .header("content-range", range)
        .header("x-content-sha256", sum(&data));
    let (status, written) = json_of(rest).await;
    assert_eq!((status, &written["sha256"]), (201, &json!(sum(&data))));
}

/// Runs the machine's own tar.
fn tar(arguments: &[&str], stdin: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut command = Command::new("tar");
    command.args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let feeding = std::thread::spawn(move || input.write_all(&stdin));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_goes_up_as_one_tar_and_comes_down_as_one() {
    let world = World::serving(Script::default()).await;
    let place = tempfile::tempdir().unwrap();
    let (up, down) = (place.path().join("up"), place.path().join("down"));
    std::fs::create_dir_all(up.join("deep/er")).unwrap();
    std::fs::create_dir_all(&down).unwrap();
    let long = format!("deep/er/{}.txt", "n".repeat(180));
    let mut expected: Vec<(String, Vec<u8>)> = (0..150)
        .map(|n| (format!("deep/small {n}.txt"), bytes(n * 17)))
        .collect();
    expected.push(("large.bin".to_owned(), bytes(3 << 20)));
    expected.push((long, b"long".to_vec()));
    expected.sort();
    for (name, content) in &expected {
        std::fs::write(up.join(name), content).unwrap();
    }
    let archive = tar(&["-C", up.to_str().unwrap(), "-cf", "-", "."], b"");
    let sent = world
        .put("files/?format=tar&under=a+folder", archive.clone())
        .header("x-content-sha256", sum(&archive));
    let (status, written) = json_of(sent).await;
    assert_eq!(status, 201, "{written}");
    let told: Vec<Value> = expected
        .iter()
        .map(|(name, content)| {
            json!({"name": format!("a folder/{name}"), "size": content.len(), "sha256": sum(content)})
        })
        .collect();
    assert_eq!(written["files"], json!(told));
    for (name, content) in &expected {
        let there = std::fs::read(world.host.files.join("a folder").join(name)).unwrap();
        assert_eq!(&there, content, "{name}");
    }
    assert_eq!(
        std::fs::read_dir(&world.host.files).unwrap().count(),
        1,
        "nothing is left of the way there"
    );
    assert_eq!(json_of(world.put("files/b", "elsewhere")).await.0, 201);

    let answer = world.get("files/?format=tar&under=a+folder").send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-tar");
    let archive = answer.bytes().await.unwrap();
    tar(&["-C", down.to_str().unwrap(), "-xf", "-"], &archive);
    let plain = String::from_utf8_lossy(&archive).contains("SRCHAT.sha256");
    assert!(
        !plain,
        "GNU tar complains of a keyword that it does not know"
    );
    let answer = world.get("files/?format=tar&sums=pax").send().await;
    let archive = answer.unwrap().bytes().await.unwrap();
    let text = String::from_utf8_lossy(&archive);
    for (name, content) in &expected {
        let told = format!("82 SRCHAT.sha256={}\n", sum(content));
        assert!(text.contains(&told), "the tar tells the SHA-256 of {name}");
    }
    for (name, content) in &expected {
        let here = std::fs::read(down.join("a folder").join(name)).unwrap();
        assert_eq!(&here, content, "{name}");
    }
    assert!(!down.join("b").exists(), "it is not below that folder");
    let (status, _) = json_of(world.put(
        "files/?format=tar&under=a+folder",
        tar(&["-C", up.to_str().unwrap(), "-cf", "-", "."], b""),
    ))
    .await;
    assert_eq!(status, 200, "all of them replaced others");
    assert_eq!(
        json_of(world.get("files/?format=tar&under=none")).await.0,
        404
    );
}

/// One entry as no tar program would write it.
fn entry(name: &str, kind: tokio_tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut head = tokio_tar::Header::new_gnu();
    head.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    head.set_entry_type(kind);
    head.set_mode(0o644);
    head.set_size(content.len() as u64);
    if !kind.is_file() {
        head.set_link_name("target").unwrap();
    }
    head.set_cksum();
    let mut entry = head.as_bytes().to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tar_that_is_hostile_broken_or_too_large_leaves_nothing() {
    use tokio_tar::EntryType::{Link, Regular, Symlink};
    let world = World::loading(Script::default()).await;
    let mut route = world.route();
    route.host.as_mut().unwrap().upload_quota = 1 << 20;
    world.gateway.apply(route);
    let good = entry("good.txt", Regular, b"good");
    let end = [0; 1024];
    let after = |bad: Vec<u8>| [&good[..], &bad, &end].concat();
    let whole = after(Vec::new());
    for (why, archive, expected) in [
        (
            "above the root",
            after(entry("../evil", Regular, b"x")),
            400,
        ),
        ("absolute", after(entry("/etc/evil", Regular, b"x")), 400),
        (
            "deep above",
            after(entry("a/../../evil", Regular, b"x")),
            400,
        ),
        (
            "control character",
            after(entry("a\nb", Regular, b"x")),
            400,
        ),
        ("ours", after(entry(".srchat-x", Regular, b"x")), 400),
        ("symlink", after(entry("link", Symlink, b"")), 400),
        ("hard link", after(entry("link", Link, b"")), 400),
        ("twice", after(good.clone()), 400),
        (
            "no tar",
            b"this is no tar, whatever it was called".repeat(40),
            400,
        ),
        (
            "cut",
            after(entry("b", Regular, &[7; 5000]))[..3000].to_vec(),
            400,
        ),
        ("large", after(entry("b", Regular, &vec![7; 2 << 20])), 507),
    ] {
        let (status, body) = json_of(world.put("files/?format=tar", archive)).await;
        assert_eq!(status, expected, "{why}: {body}");
        let left = std::fs::read_dir(&world.host.files).unwrap().count();
        assert_eq!(left, 0, "{why}");
    }
    let other = world.put("files/?format=tar", whole.clone());
    let (status, _) = json_of(other.header("x-content-sha256", sum(b"other"))).await;
    assert_eq!(status, 422);
    assert_eq!(
        json_of(world.put("files/", whole.clone())).await.0,
        400,
        "no format"
    );
    assert_eq!(std::fs::read_dir(&world.host.files).unwrap().count(), 0);
    assert_eq!(json_of(world.put("files/?format=tar", whole)).await.0, 201);
    assert!(!world.host.files.parent().unwrap().join("evil").exists());
}
