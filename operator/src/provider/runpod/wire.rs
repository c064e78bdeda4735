//! REST v2's JSON, read leniently: what srchat needs and cannot read is an error, everything else is simply absent.
//! Nothing here panics, whatever the provider sends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use srchat_crds::Dollars;

use crate::provider::{
    Address, Billed, Cloud, LogLine, NewPod, Offer, Pod, PodId, PodStatus, Stock,
};

/// An answer of the right status whose body is not what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer could not be read: {0}")]
pub(super) struct Unreadable(pub(super) &'static str);

/// The body of a create. `gpu.count`, `disk`, `cloud` and `ports` have defaults that are not ours, so each is always sent.
pub(super) fn new_pod(new: &NewPod) -> Value {
    let NewPod {
        name,
        image,
        gpu,
        count,
        cloud,
        disk_gb,
        args,
        env,
        data_centers,
        min_cuda,
    } = new;
    let mut gpu = json!({"id": gpu, "count": count});
    if let Some(version) = min_cuda {
        gpu["minCudaVersion"] = json!(version);
    }
    let mut body = json!({
        "name": name,
        "image": image,
        "gpu": gpu,
        "cloud": cloud.as_str(),
        "disk": disk_gb,
        "ports": ["22/tcp"],
        "env": env,
        "args": args,
    });
    if !data_centers.is_empty() {
        body["dataCenterIds"] = json!(data_centers);
    }
    body
}

/// The fields of a pod that are read, each leniently; what else a record has (its start command alone is kilobytes) is skipped
/// while it arrives.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    id: Value,
    name: Value,
    status: Value,
    created_at: Value,
    started_at: Value,
    cost: Value,
    ssh: Value,
    runtime: Value,
    env: Value,
    gpu: Value,
    data_center_id: Value,
    image: Value,
}

/// A pod that was read from its record.
#[derive(Deserialize)]
#[serde(try_from = "Record")]
struct Read(Pod);

impl TryFrom<Record> for Read {
    type Error = Unreadable;

    /// Only the id is required.
    fn try_from(record: Record) -> Result<Self, Unreadable> {
        let Record {
            id,
            name,
            status,
            created_at,
            started_at,
            cost,
            ssh,
            runtime,
            env,
            gpu,
            data_center_id,
            image,
        } = record;
        let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self(Pod {
            id: id
                .as_str()
                .and_then(|id| id.parse().ok())
                .ok_or(Unreadable("a pod without an id"))?,
            name: words(&name),
            status: PodStatus::from(status.as_str().unwrap_or_default()),
            created_at: time(Some(&created_at)),
            started_at: time(Some(&started_at)),
            cost: dollars(Some(&cost)),
            ssh: ssh.get("direct").and_then(address),
            uptime: runtime.get("uptime").and_then(Value::as_u64),
            env: strings(Some(&env)),
            gpu: gpu.get("id").and_then(Value::as_str).map(str::to_owned),
            count: whole(gpu.get("count")).unwrap_or(1),
            data_center: data_center_id.as_str().map(str::to_owned),
            image: words(&image),
        }))
    }
}

/// A pod.
pub(super) fn pod(body: &Value) -> Result<Pod, Unreadable> {
    if !body.is_object() {
        return Err(Unreadable("a pod is not an object"));
    }
    Read::deserialize(body)
        .map(|Read(pod)| pod)
        .map_err(|_| Unreadable("a pod without an id"))
}

/// One page of pods, and the cursor of the next one, read as it arrives: of each record only the pod is kept. One unreadable record
/// makes the whole page unreadable: it may be ours.
pub(super) fn page(body: impl io::Read) -> Result<(Vec<Pod>, Option<String>), Unreadable> {
    #[derive(Deserialize)]
    struct Page {
        pods: Vec<Read>,
        #[serde(default)]
        pagination: Value,
    }
    let mut json = serde_json::Deserializer::from_reader(body);
    let page = Page::deserialize(&mut json).and_then(|page| json.end().map(|()| page));
    let Page { pods, pagination } = page.map_err(|_| Unreadable("no list of pods"))?;
    let pods = pods.into_iter().map(|Read(pod)| pod).collect();
    let next = match pagination.get("nextCursor") {
        None | Some(Value::Null) => None,
        Some(Value::String(cursor)) if cursor.is_empty() => None,
        Some(Value::String(cursor)) => Some(cursor.clone()),
        Some(_) => return Err(Unreadable("a cursor that is not a text")),
    };
    Ok((pods, next))
}

/// What can be rented in this cloud, in the catalog's order. Entries without an id, a memory or a price cannot be rented and are left out.
pub(super) fn offers(body: &Value, cloud: Cloud, count: u32) -> Result<Vec<Offer>, Unreadable> {
    let gpus = body
        .get("gpus")
        .and_then(Value::as_array)
        .ok_or(Unreadable("no list of GPUs"))?;
    let offers: Vec<Offer> = gpus
        .iter()
        .filter_map(|gpu| offer(gpu, cloud, count))
        .collect();
    let offered_here = |gpu: &&Value| gpu.get(cloud_field(cloud)) != Some(&Value::Bool(false));
    if offers.is_empty() && gpus.iter().any(|gpu| offered_here(&gpu)) {
        return Err(Unreadable("no GPU of the catalog could be read"));
    }
    Ok(offers)
}

fn cloud_field(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Secure => "secure",
        Cloud::Community => "community",
    }
}

fn offer(gpu: &Value, cloud: Cloud, count: u32) -> Option<Offer> {
    let field = cloud_field(cloud);
    let body = gpu.as_object()?;
    if body.get(field).and_then(Value::as_bool) != Some(true) {
        return None;
    }
    let id = text(body, "id").filter(|id| !id.is_empty())?;
    let price = dollars(body.get("price").and_then(|price| price.get(field)))
        .filter(|price| *price > Dollars::ZERO)?;
    let centers = body
        .get("dataCenters")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    Some(Offer {
        gpu: id.to_owned(),
        name: text(body, "name")
            .filter(|name| !name.is_empty())
            .unwrap_or(id)
            .to_owned(),
        memory_gb: whole(body.get("memory")).filter(|gb| *gb > 0)?,
        count,
        cloud,
        price,
        stock: stock(body.get("availability")),
        data_centers: centers
            .iter()
            .filter_map(|center| {
                Some((
                    center.get("id")?.as_str()?.to_owned(),
                    stock(center.get("availability")),
                ))
            })
            .collect(),
        max_count: whole(body.get("maxCount").and_then(|max| max.get(field))).unwrap_or(1),
    })
}

/// Stock is asked for in every call, so its absence means none; a word we do not know is worth one try.
fn stock(level: Option<&Value>) -> Stock {
    match level.and_then(Value::as_str) {
        None | Some("NONE") => Stock::None,
        Some("HIGH") => Stock::High,
        Some("MEDIUM") => Stock::Medium,
        Some(_) => Stock::Low,
    }
}

/// The sum of all records of one pod.
pub(super) fn billed(body: &Value, pod: &PodId) -> Result<Billed, Unreadable> {
    let records = body
        .get("records")
        .and_then(Value::as_array)
        .ok_or(Unreadable("no billing records"))?;
    let mut seen = Billed {
        total: Dollars::ZERO,
        until: None,
    };
    for record in records
        .iter()
        .filter(|record| record.get("podId").and_then(Value::as_str) == Some(pod.as_str()))
    {
        let amount = dollars(record.get("totalAmount"))
            .ok_or(Unreadable("a billing record without an amount"))?;
        seen.total = seen.total + amount;
        seen.until = seen.until.max(time(record.get("endTime")));
    }
    Ok(seen)
}

/// What is kept of a log line: a pod that writes endless ones takes no memory of ours.
const LONGEST_LINE: usize = 4_096;

/// A line of a container's log, from the data of an event; none for other sources and for what cannot be read.
pub(super) fn log_line(data: &str) -> Option<LogLine> {
    let body: Value = serde_json::from_str(data).ok()?;
    if body.get("source").and_then(Value::as_str) == Some("system") {
        return None;
    }
    let line = body
        .get("line")?
        .as_str()?
        .trim_end_matches(['\r', '\n'])
        .chars()
        .take(LONGEST_LINE)
        .collect();
    Some(LogLine {
        at: time(body.get("ts")),
        line,
    })
}

/// What an error's body says, for people: `detail`, then `error`, then `message`, then the text itself; with the violations of a 422.
pub(super) fn detail(body: &str) -> String {
    let Ok(Value::Object(problem)) = serde_json::from_str::<Value>(body) else {
        return plain(body);
    };
    let said = ["detail", "error", "message"]
        .into_iter()
        .find_map(|field| match problem.get(field)? {
            Value::String(said) if !said.is_empty() => Some(said.clone()),
            Value::Object(inner) => text(inner, "message").map(str::to_owned),
            _ => None,
        });
    let mut said = said
        .or_else(|| text(&problem, "title").map(str::to_owned))
        .unwrap_or_else(|| body.to_owned());
    let violations: BTreeSet<&str> = problem
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .take(5)
        .collect();
    for violation in violations {
        said.push_str("; ");
        said.push_str(violation);
    }
    plain(&said)
}

/// One line of at most 300 characters, without control characters.
fn plain(text: &str) -> String {
    const LONGEST: usize = 300;
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        line
    } else {
        line.chars().take(LONGEST).chain(['…']).collect()
    }
}

fn text<'a>(body: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    body.get(field)?.as_str()
}

fn whole(value: Option<&Value>) -> Option<u32> {
    value?.as_u64()?.try_into().ok()
}

fn time(value: Option<&Value>) -> Option<Timestamp> {
    value?.as_str()?.parse().ok()
}

fn dollars(value: Option<&Value>) -> Option<Dollars> {
    Dollars::from_number(value?.as_number()?).ok()
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A host and a port that could be connected to; the host is a name or an address, never something with a meaning of its own.
fn address(direct: &Value) -> Option<Address> {
    let host = direct.get("host")?.as_str()?;
    let port: u16 = direct.get("port")?.as_u64()?.try_into().ok()?;
    let fits = (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_'));
    (fits && port > 0).then(|| Address {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests;
