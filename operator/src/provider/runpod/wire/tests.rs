#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A body that arrives in odd pieces, as from a connection.
struct Dribble<'a>(&'a [u8]);

impl io::Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(self.0.len()).min(1_357);
        let (piece, rest) = self.0.split_at(length);
        into[..length].copy_from_slice(piece);
        self.0 = rest;
        Ok(length)
    }
}

fn read_page(body: Value) -> Result<(Vec<Pod>, Option<String>), Unreadable> {
    page(body.to_string().as_bytes())
}

fn published_pod() -> Value {
    json!({
        "id": "7h9k2m4n6p", "name": "pytorch-training", "image": "runpod/pytorch:1", "args": "", "disk": 50,
        "ports": ["8888/http", "22/tcp"], "env": {"MODEL_NAME": "llama-3"}, "registry": null, "status": "RUNNING",
        "actions": ["stop", "restart", "terminate"], "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 2}, "cloud": "SECURE",
        "dataCenterId": "US-KS-2", "cudaVersion": "12.8",
        "ssh": {"proxy": null, "direct": {"host": "195.26.233.3", "port": 34446, "username": "root", "command": "ssh"}},
        "template": null, "cost": 0.44, "locked": false, "globalNetworking": {"enabled": false},
        "runtime": {"uptime": 3600}, "createdAt": "2026-06-01T12:00:00Z", "startedAt": "2026-06-01T12:02:00Z",
    })
}

#[test]
fn a_pod_as_published_is_read_whole() {
    let seen = pod(&published_pod()).unwrap();
    let want = Pod {
        id: "7h9k2m4n6p".parse().unwrap(),
        name: "pytorch-training".into(),
        status: PodStatus::Running,
        created_at: Some("2026-06-01T12:00:00Z".parse().unwrap()),
        started_at: Some("2026-06-01T12:02:00Z".parse().unwrap()),
        cost: Some(Dollars::cents(44)),
        ssh: Some(Address {
            host: "195.26.233.3".into(),
            port: 34446,
        }),
        uptime: Some(3600),
        env: BTreeMap::from([("MODEL_NAME".into(), "llama-3".into())]),
        gpu: Some("NVIDIA GeForce RTX 4090".into()),
        count: 2,
        data_center: Some("US-KS-2".into()),
        image: "runpod/pytorch:1".into(),
    };
    assert_eq!(seen, want);
}

#[test]
fn what_is_missing_or_odd_in_a_pod_is_absent_and_never_guessed() {
    let seen = pod(&json!({"id": "a", "status": "DREAMING", "cost": -1, "ssh": {"direct": {"host": "a b", "port": 22}}, "createdAt": 7})).unwrap();
    assert_eq!(seen.status, PodStatus::Other);
    assert_eq!((seen.cost, seen.ssh, seen.created_at), (None, None, None));
    for refused in [
        json!({}),
        json!({"id": ""}),
        json!({"id": "../x"}),
        json!({"id": 7}),
        json!([]),
        Value::Null,
    ] {
        assert!(pod(&refused).is_err(), "{refused}");
    }
}

#[test]
fn a_list_with_one_unreadable_record_is_no_list() {
    assert!(read_page(json!({"pods": [published_pod(), {"name": "no id"}]})).is_err());
    assert!(read_page(json!({"pods": null})).is_err());
    assert!(read_page(json!([])).is_err());
    assert!(read_page(json!({"error": "x"})).is_err());
    assert_eq!(read_page(json!({"pods": []})).unwrap(), (vec![], None));
}

#[test]
fn a_list_is_read_as_it_arrives_whatever_else_is_in_it() {
    let mut record = published_pod();
    record["args"] = json!("x".repeat(30_000));
    record["added"] = json!({"by": ["a", "newer", {"server": null}]});
    let mut body =
        b"{\"pagination\":{\"nextCursor\":\"more\"},\"other\":[1,{}],\"pods\":[".to_vec();
    for n in 0..300 {
        record["id"] = json!(format!("pod{n}"));
        if n > 0 {
            body.push(b',');
        }
        body.extend(record.to_string().into_bytes());
    }
    body.extend(b"]}");
    let (pods, next) = page(Dribble(&body)).unwrap();
    assert_eq!((pods.len(), next.as_deref()), (300, Some("more")));
    assert_eq!(pods[299].id.as_str(), "pod299");
    assert!(page(Dribble(&body[..body.len() - 1])).is_err(), "cut off");
    body.extend(b" x");
    assert!(page(Dribble(&body)).is_err(), "more than one answer");
}

#[test]
fn a_cursor_is_followed_when_there_is_one() {
    let next = |pagination: Value| {
        read_page(json!({"pods": [], "pagination": pagination})).map(|(_, next)| next)
    };
    assert_eq!(next(json!({"nextCursor": "abc"})), Ok(Some("abc".into())));
    assert_eq!(next(json!({"nextCursor": null})), Ok(None));
    assert_eq!(next(json!({"nextCursor": ""})), Ok(None));
    assert_eq!(next(json!({})), Ok(None));
    assert!(next(json!({"nextCursor": 7})).is_err());
}

#[test]
fn offers_are_those_of_the_cloud_with_price_and_stock() {
    let body = json!({"gpus": [
        {"id": "NVIDIA L40S", "name": "L40S", "memory": 48, "secure": true, "community": false, "price": {"secure": 0.79, "community": 0},
         "maxCount": {"secure": 8, "community": 0}, "availability": "HIGH", "dataCenters": [{"id": "EU-RO-1", "name": "x", "availability": "LOW"}]},
        {"id": "no price", "name": "x", "memory": 1, "secure": true, "price": {}},
    ]});
    let seen = offers(&body, Cloud::Secure, 2).unwrap();
    let want = Offer {
        gpu: "NVIDIA L40S".into(),
        name: "L40S".into(),
        memory_gb: 48,
        count: 2,
        cloud: Cloud::Secure,
        price: Dollars::cents(79),
        stock: Stock::High,
        data_centers: BTreeMap::from([("EU-RO-1".into(), Stock::Low)]),
        max_count: 8,
    };
    assert_eq!(seen, vec![want]);
    assert_eq!(seen[0].hourly(), Dollars::cents(158));
}

#[test]
fn a_catalog_of_which_nothing_can_be_read_is_not_an_empty_one() {
    assert!(offers(&json!({"gpus": [{"id": 7}]}), Cloud::Secure, 1).is_err());
    assert_eq!(offers(&json!({"gpus": []}), Cloud::Secure, 1), Ok(vec![]));
    assert_eq!(
        offers(
            &json!({"gpus": [{"id": "a", "community": false}]}),
            Cloud::Community,
            1
        ),
        Ok(vec![])
    );
}

#[test]
fn billing_adds_up_one_pods_records() {
    let id: PodId = "p".parse().unwrap();
    let body = json!({"records": [
        {"podId": "p", "totalAmount": 0.79, "endTime": "2026-06-01T13:00:00Z"},
        {"podId": "p", "totalAmount": 0.1, "endTime": "2026-06-01T12:00:00Z"},
        {"podId": "other", "totalAmount": 5},
    ]});
    let want = Billed {
        total: Dollars::cents(89),
        until: Some("2026-06-01T13:00:00Z".parse().unwrap()),
    };
    assert_eq!(billed(&body, &id), Ok(want));
    assert_eq!(
        billed(&json!({"records": []}), &id),
        Ok(Billed {
            total: Dollars::ZERO,
            until: None
        })
    );
    assert!(billed(&json!({"records": [{"podId": "p"}]}), &id).is_err());
}

#[test]
fn a_log_line_is_the_containers_and_has_no_end() {
    let seen =
        log_line(r#"{"ts":"2026-06-01T12:02:03Z","source":"container","line":"Model loaded.\n"}"#);
    assert_eq!(
        seen,
        Some(LogLine {
            at: Some("2026-06-01T12:02:03Z".parse().unwrap()),
            line: "Model loaded.".into()
        })
    );
    assert_eq!(log_line(r#"{"source":"system","line":"pulling"}"#), None);
    assert_eq!(log_line("not json"), None);
}

#[test]
fn a_create_says_everything_that_has_a_default() {
    let new = NewPod {
        name: "n".into(),
        image: "i".into(),
        gpu: "NVIDIA L4".into(),
        count: 1,
        cloud: Cloud::Secure,
        disk_gb: 50,
        args: "sh -c true".into(),
        env: BTreeMap::from([("A".into(), "b".into())]),
        data_centers: vec![],
        min_cuda: None,
    };
    let want = json!({"name": "n", "image": "i", "gpu": {"id": "NVIDIA L4", "count": 1}, "cloud": "SECURE", "disk": 50,
        "ports": ["22/tcp"], "env": {"A": "b"}, "args": "sh -c true"});
    assert_eq!(new_pod(&new), want);
    let narrow = new_pod(&NewPod {
        data_centers: vec!["EU-RO-1".into()],
        min_cuda: Some("12.8".into()),
        ..new
    });
    assert_eq!(narrow["dataCenterIds"], json!(["EU-RO-1"]));
    assert_eq!(narrow["gpu"]["minCudaVersion"], json!("12.8"));
}

/// Any JSON, with the words this module looks for among its names.
fn any_json() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 26] = [
        "id",
        "pods",
        "name",
        "status",
        "cost",
        "ssh",
        "direct",
        "host",
        "port",
        "runtime",
        "uptime",
        "env",
        "gpu",
        "gpus",
        "count",
        "price",
        "secure",
        "memory",
        "pagination",
        "nextCursor",
        "records",
        "totalAmount",
        "podId",
        "detail",
        "errors",
        "line",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("abc")),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(&NAMES[..]), inner, 0..8)
                .prop_map(|fields| Value::Object(
                    fields
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                )),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_at_all_makes_a_parser_panic(body in any_json()) {
        let id: PodId = "abc".parse().unwrap();
        let _ = (pod(&body), read_page(body.clone()), offers(&body, Cloud::Secure, 1), billed(&body, &id));
        let text = body.to_string();
        let _ = log_line(&text);
        prop_assert!(detail(&text).chars().count() <= 301);
    }

    #[test]
    fn no_text_at_all_makes_a_parser_panic(text in ".{0,400}") {
        let _ = log_line(&text);
        prop_assert!(detail(&text).chars().count() <= 301);
    }
}
