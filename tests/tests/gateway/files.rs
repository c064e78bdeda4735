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
    assert_eq!(json_of(part(half, data.len())).await.0, 201);

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
