//! The body of a create, read as strictly as RunPod does: 422 for what does not match the contract, 400 for what breaks a rule.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{catalog, problem::Problem};

/// What a create asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) args: String,
    pub(super) disk: u64,
    pub(super) env: BTreeMap<String, String>,
    pub(super) ports: Vec<String>,
    pub(super) compute: Compute,
    pub(super) secure: bool,
    pub(super) centers: Vec<String>,
    pub(super) start_ssh: bool,
    pub(super) mounts: Value,
    pub(super) registry: Value,
}

/// What is rented.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Compute {
    Gpu {
        id: String,
        count: u32,
        cuda: Vec<String>,
    },
    Cpu {
        id: String,
        count: u32,
    },
}

impl Compute {
    /// The id of the GPU or CPU.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Gpu { id, .. } | Self::Cpu { id, .. } => id,
        }
    }
}

/// The longest start command that RunPod takes, in bytes.
const LONGEST_ARGS: usize = 102_400;
/// The most variables of an environment.
const MOST_ENV: usize = 50;
/// The container disk when a create does not say.
const USUAL_DISK: u64 = 20;

/// Reads a body.
pub(super) fn parse(body: &[u8]) -> Result<Request, Problem> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| Problem::new(400, "the request body is not valid JSON"))?;
    let Some(fields) = body.as_object() else {
        return Err(Problem::invalid(vec![format!(
            "$: got {}, want object",
            kind(&body)
        )]));
    };
    let mut reader = Reader { errors: Vec::new() };
    let request = read(&mut reader, fields);
    if !reader.errors.is_empty() {
        return Err(Problem::invalid(reader.errors));
    }
    let Read {
        request,
        has_gpu,
        has_cpu,
        template,
        allowed,
        floor,
    } = request;
    if let Some(template) = template {
        return Err(Problem::new(
            404,
            format!("template {template:?} not found"),
        ));
    }
    if has_gpu == has_cpu {
        return Err(Problem::new(400, "exactly one of gpu and cpu must be set"));
    }
    if allowed && floor {
        return Err(Problem::new(
            400,
            "gpu.allowedCudaVersions and gpu.minCudaVersion are mutually exclusive",
        ));
    }
    check(&request)?;
    Ok(request)
}

struct Read {
    request: Request,
    has_gpu: bool,
    has_cpu: bool,
    template: Option<String>,
    allowed: bool,
    floor: bool,
}

fn read(reader: &mut Reader, fields: &Map<String, Value>) -> Read {
    const KNOWN: [&str; 16] = [
        "name",
        "image",
        "args",
        "disk",
        "env",
        "ports",
        "registry",
        "cloud",
        "cpu",
        "gpu",
        "dataCenterIds",
        "globalNetworking",
        "mounts",
        "startJupyter",
        "startSsh",
        "templateId",
    ];
    reader.only(fields, &KNOWN, "$");
    reader.required(fields, &["name"], "$");
    if !fields.contains_key("templateId") {
        reader.required(fields, &["image"], "$");
    }
    let gpu = reader.object(
        fields,
        "gpu",
        &["id", "count", "allowedCudaVersions", "minCudaVersion"],
        &["id"],
    );
    let cpu = reader.object(fields, "cpu", &["id", "vcpuCount"], &["id", "vcpuCount"]);
    let mounts = reader.object(fields, "mounts", &["persistent", "network"], &[]);
    read_mounts(reader, &mounts);
    let allowed = reader.texts(&gpu, "allowedCudaVersions");
    let floor = reader.text(&gpu, "minCudaVersion", 0);
    for version in allowed.iter().chain(&floor) {
        if !is_version(version) {
            reader.errors.push(format!(
                "$.gpu: {version:?} does not match pattern ^\\d+\\.\\d+$"
            ));
        }
    }
    let cloud = reader.text(fields, "cloud", 0);
    if let Some(cloud) = cloud
        .as_deref()
        .filter(|cloud| !matches!(*cloud, "SECURE" | "COMMUNITY"))
    {
        reader.errors.push(format!(
            "$.cloud: {cloud:?} is not one of SECURE, COMMUNITY"
        ));
    }
    for flag in ["globalNetworking", "startJupyter"] {
        reader.flag(fields, flag);
    }
    let registry = match fields.get("registry") {
        Some(Value::Null | Value::String(_)) | None => {
            fields.get("registry").cloned().unwrap_or(Value::Null)
        }
        Some(other) => reader
            .wrong("$.registry", other, "string or null")
            .unwrap_or(Value::Null),
    };
    let compute = if fields.contains_key("cpu") {
        let id = reader.text(&cpu, "id", 1).unwrap_or_default();
        Compute::Cpu {
            id,
            count: small(reader.number(&cpu, "vcpuCount", 2)),
        }
    } else {
        let id = reader.text(&gpu, "id", 0).unwrap_or_default();
        let cuda = allowed
            .iter()
            .cloned()
            .chain(floor.iter().map(|floor| format!(">={floor}")))
            .collect();
        Compute::Gpu {
            id,
            count: small(reader.number(&gpu, "count", 1).or(Some(1))),
            cuda,
        }
    };
    let request = Request {
        name: reader.text(fields, "name", 1).unwrap_or_default(),
        image: reader.text(fields, "image", 0).unwrap_or_default(),
        args: reader.text(fields, "args", 0).unwrap_or_default(),
        disk: reader.number(fields, "disk", 1).unwrap_or(USUAL_DISK),
        env: reader.env(fields),
        ports: reader.texts(fields, "ports"),
        compute,
        secure: cloud.as_deref() != Some("COMMUNITY"),
        centers: reader.texts(fields, "dataCenterIds"),
        start_ssh: reader.flag(fields, "startSsh"),
        mounts: Value::Object(mounts),
        registry,
    };
    Read {
        request,
        has_gpu: fields.contains_key("gpu"),
        has_cpu: fields.contains_key("cpu"),
        template: reader.text(fields, "templateId", 1),
        allowed: !allowed.is_empty(),
        floor: floor.is_some(),
    }
}

fn read_mounts(reader: &mut Reader, mounts: &Map<String, Value>) {
    let persistent = reader.object(mounts, "persistent", &["size", "path"], &["size", "path"]);
    reader.number(&persistent, "size", 10);
    reader.text(&persistent, "path", 0);
    match mounts.get("network") {
        None => {}
        Some(Value::Array(network)) if network.len() <= 1 => {
            for mount in network {
                let wrapped = Map::from_iter([("network[0]".to_owned(), mount.clone())]);
                let mount = reader.object(
                    &wrapped,
                    "network[0]",
                    &["volumeId", "path"],
                    &["volumeId", "path"],
                );
                reader.text(&mount, "volumeId", 0);
                reader.text(&mount, "path", 0);
            }
        }
        Some(other) => drop(reader.wrong::<()>("$.mounts.network", other, "array of at most 1")),
    }
}

/// The rules that cross fields, or need to know what exists.
fn check(request: &Request) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::new(400, detail));
    if request.args.len() > LONGEST_ARGS {
        return refuse(format!("args must be at most {LONGEST_ARGS} bytes"));
    }
    if request.env.len() > MOST_ENV {
        return refuse(format!(
            "at most {MOST_ENV} environment variables are allowed"
        ));
    }
    if let Some(port) = request.ports.iter().find(|port| !is_port(port)) {
        return refuse(format!(
            "port {port:?} must be written as port/protocol, such as 22/tcp"
        ));
    }
    if let Some(center) = request
        .centers
        .iter()
        .find(|center| !catalog::is_center(center))
    {
        return refuse(format!("unknown data center {center:?}"));
    }
    if request.image.trim().is_empty() || request.image.contains(char::is_whitespace) {
        return refuse("image is not a valid image reference".into());
    }
    if let Value::String(registry) = &request.registry {
        return refuse(format!("registry {registry:?} not found"));
    }
    if let Some(network) = request.mounts.get("network") {
        let both = request.mounts.get("persistent").is_some();
        return refuse(if both {
            "mounts.persistent and mounts.network are mutually exclusive".into()
        } else {
            format!("unknown network volume in {network}")
        });
    }
    match &request.compute {
        Compute::Gpu { id, .. } if catalog::find(id).is_none() => {
            refuse(format!("unknown GPU type {id:?}"))
        }
        Compute::Gpu { .. } => Ok(()),
        Compute::Cpu { .. } if request.mounts.get("persistent").is_some() => {
            refuse("mounts.persistent is not allowed on CPU pods".into())
        }
        Compute::Cpu { id, count }
            if !matches!(id.as_str(), "cpu3c" | "cpu5c") || !count.is_power_of_two() =>
        {
            refuse(format!(
                "CPU flavor {id:?} with {count} vCPUs does not exist"
            ))
        }
        Compute::Cpu { .. } => Ok(()),
    }
}

fn is_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

fn is_port(text: &str) -> bool {
    let Some((port, protocol)) = text.split_once('/') else {
        return false;
    };
    port.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "http")
}

fn small(number: Option<u64>) -> u32 {
    number
        .and_then(|number| number.try_into().ok())
        .unwrap_or(u32::MAX)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Collects every violation, as RunPod does, instead of stopping at the first.
struct Reader {
    errors: Vec<String>,
}

impl Reader {
    fn wrong<T>(&mut self, at: &str, value: &Value, want: &str) -> Option<T> {
        self.errors
            .push(format!("{at}: got {}, want {want}", kind(value)));
        None
    }

    fn only(&mut self, fields: &Map<String, Value>, known: &[&str], at: &str) {
        let unknown = fields
            .keys()
            .filter(|field| !known.contains(&field.as_str()));
        self.errors.extend(
            unknown.map(|field| format!("{at}: additional properties '{field}' not allowed")),
        );
    }

    fn required(&mut self, fields: &Map<String, Value>, names: &[&str], at: &str) {
        let missing = names.iter().filter(|name| !fields.contains_key(**name));
        self.errors
            .extend(missing.map(|name| format!("{at}: missing property '{name}'")));
    }

    /// An object that may be absent; then it is empty.
    fn object(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
        known: &[&str],
        required: &[&str],
    ) -> Map<String, Value> {
        match fields.get(name) {
            None => Map::new(),
            Some(Value::Object(object)) => {
                self.only(object, known, name);
                self.required(object, required, name);
                object.clone()
            }
            Some(other) => self.wrong(name, other, "object").unwrap_or_default(),
        }
    }

    fn text(&mut self, fields: &Map<String, Value>, name: &str, shortest: usize) -> Option<String> {
        match fields.get(name)? {
            Value::String(text) if text.len() < shortest => {
                self.errors.push(format!(
                    "{name}: length must be >= {shortest}, but got {}",
                    text.len()
                ));
                None
            }
            Value::String(text) => Some(text.clone()),
            other => self.wrong(name, other, "string"),
        }
    }

    fn texts(&mut self, fields: &Map<String, Value>, name: &str) -> Vec<String> {
        match fields.get(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let texts: Vec<String> = items
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                if texts.len() < items.len() {
                    self.errors
                        .push(format!("{name}: every item must be a string"));
                }
                texts
            }
            Some(other) => self.wrong(name, other, "array").unwrap_or_default(),
        }
    }

    fn number(&mut self, fields: &Map<String, Value>, name: &str, least: u64) -> Option<u64> {
        let value = fields.get(name)?;
        // In JSON Schema 50.0 is an integer.
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                .map(|n| n as u64)
        });
        match whole {
            Some(number) if number < least => {
                self.errors
                    .push(format!("{name}: must be >= {least}, but got {number}"));
                None
            }
            Some(number) => Some(number),
            None => self.wrong(name, value, "integer"),
        }
    }

    fn flag(&mut self, fields: &Map<String, Value>, name: &str) -> bool {
        match fields.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => self.wrong(name, other, "boolean").unwrap_or_default(),
        }
    }

    fn env(&mut self, fields: &Map<String, Value>) -> BTreeMap<String, String> {
        match fields.get("env") {
            None => BTreeMap::new(),
            Some(Value::Object(env)) => {
                let texts: BTreeMap<_, _> = env
                    .iter()
                    .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                    .collect();
                if texts.len() < env.len() {
                    self.errors.push("env: every value must be a string".into());
                }
                texts
            }
            Some(other) => self.wrong("env", other, "object").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn minimal() -> Value {
        json!({"name": "n", "image": "i", "gpu": {"id": "NVIDIA L4"}})
    }

    fn with(field: &str, value: Value) -> Result<Request, Problem> {
        let mut body = minimal();
        body[field] = value;
        parse(&serde_json::to_vec(&body).unwrap())
    }

    #[test]
    fn the_smallest_create_has_the_documented_defaults() {
        let seen = parse(minimal().to_string().as_bytes()).unwrap();
        assert_eq!((seen.disk, seen.ports.len(), seen.secure), (20, 0, true));
        assert_eq!(
            seen.compute,
            Compute::Gpu {
                id: "NVIDIA L4".into(),
                count: 1,
                cuda: vec![]
            }
        );
    }

    #[test]
    fn what_does_not_match_the_contract_is_422_and_what_breaks_a_rule_is_400() {
        let status = |field: &str, value: Value| {
            with(field, value)
                .map(|_| 201)
                .unwrap_or_else(|problem| problem.status)
        };
        assert_eq!(status("bogus", json!(1)), 422);
        assert_eq!(status("name", json!("")), 422);
        assert_eq!(status("disk", json!(0)), 422);
        assert_eq!(status("cloud", json!("ANY")), 422);
        assert_eq!(status("env", json!({"A": 1})), 422);
        assert_eq!(status("gpu", json!({"id": "NVIDIA L4", "bogus": 1})), 422);
        assert_eq!(
            status("gpu", json!({"id": "NVIDIA L4", "minCudaVersion": "12"})),
            422
        );
        assert_eq!(status("cpu", json!({"id": "cpu5c", "vcpuCount": 4})), 400);
        assert_eq!(status("gpu", json!({"id": "no such"})), 400);
        assert_eq!(
            status(
                "gpu",
                json!({"id": "NVIDIA L4", "minCudaVersion": "12.1", "allowedCudaVersions": ["12.8"]})
            ),
            400
        );
        assert_eq!(status("ports", json!(["22"])), 400);
        assert_eq!(status("dataCenterIds", json!(["MARS-1"])), 400);
        assert_eq!(status("args", json!("x".repeat(102_401))), 400);
        assert_eq!(status("templateId", json!("abc")), 404);
        assert_eq!(status("ports", json!(["22/tcp"])), 201);
        assert_eq!(parse(b"{").unwrap_err().status, 400);
        assert_eq!(parse(b"[]").unwrap_err().status, 422);
    }

    #[test]
    fn every_violation_is_named() {
        let problem = with("bogus", json!(1)).unwrap_err();
        assert_eq!(
            problem.errors,
            ["$: additional properties 'bogus' not allowed"]
        );
        let many = parse(br#"{"a":1,"b":2}"#).unwrap_err();
        assert_eq!(many.errors.len(), 4, "{many:?}");
    }
}
