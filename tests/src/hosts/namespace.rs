//! A machine in namespaces of its own, made with util-linux's `unshare`: by root, or by a user who has subordinate ids.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::keeper::{self, End};
use super::network::Inside;
use super::{Error, HostSpec, Isolation, Machine};

const RECIPE: &str = include_str!("namespace.sh");

/// Who makes the namespaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Root,
    /// In a user namespace; root inside is that user outside.
    User,
}

pub(super) async fn start(rights: Rights, spec: HostSpec) -> Result<Machine, Error> {
    let pod = spec.pod_id.clone();
    let reach = spec.reach.clone();
    let command = command(rights, &spec);
    let prepare = move |recipe: &mut keeper::Recipe| {
        let pid = recipe.up()?;
        let end = End::of(pid, Signal::KILL)?;
        let inside = match rights {
            Rights::Root => Inside::of(pid),
            Rights::User => Inside::of_user(pid),
        };
        let inside = inside.map_err(|e| format!("no way into its network: {e}"))?;
        inside
            .raise_loopback()
            .map_err(|e| format!("loopback stays down: {e}"))?;
        let mut listeners = Vec::new();
        for address in reach {
            let listener = inside
                .listen(address)
                .map_err(|e| format!("{address} inside: {e}"))?;
            listeners.push((address, listener));
        }
        recipe.go("go")?;
        Ok((end, (inside, listeners)))
    };
    let kept = keeper::keep(command, prepare, || {})
        .await
        .map_err(|why| Error::start(&pod, why))?;
    let keeper::Kept {
        end,
        output,
        exit,
        made: (inside, listeners),
    } = kept;
    let isolation = match rights {
        Rights::Root => Isolation::Namespace,
        Rights::User => Isolation::Userns,
    };
    Machine::around(
        isolation,
        keeper::Kept {
            end,
            output,
            exit,
            made: inside,
        },
        listeners,
    )
    .await
    .map_err(|e| Error::start(&pod, e.to_string()))
}

fn command(rights: Rights, spec: &HostSpec) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if rights == Rights::User {
        // The caller becomes root inside; the subordinate ids become everybody else.
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args(["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"]);
    command.args(["--fork", "--kill-child=SIGKILL", "sh", "-c", RECIPE, "sh"]);
    let image = &spec.image;
    let hidden = [
        ("sshd", image.sshd),
        ("curl", image.curl),
        ("python", image.python),
    ];
    let hidden: Vec<_> = hidden
        .into_iter()
        .filter_map(|(name, ships)| (!ships).then_some(name))
        .collect();
    let home = std::env::var_os("HOME").filter(|home| home.as_encoded_bytes().starts_with(b"/"));
    command.arg(if rights == Rights::Root {
        "root"
    } else {
        "user"
    });
    command
        .arg(image.shm.to_string())
        .arg(&spec.pod_id)
        .arg(home.unwrap_or("/root".into()));
    command
        .arg(hidden.join(" "))
        .arg(if image.mirror { "yes" } else { "no" });
    command.args(image.shown()).arg("--").args(&spec.argv);
    command.env_clear().envs(environment(spec, "/root"));
    command
}

/// PID 1's environment, with what every container has.
pub(super) fn environment(spec: &HostSpec, home: &str) -> BTreeMap<String, String> {
    const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut env = spec.env.clone();
    env.entry("HOME".to_owned())
        .or_insert_with(|| home.to_owned());
    let system = env.get("PATH").map_or(SYSTEM, String::as_str);
    let own = spec
        .image
        .path
        .iter()
        .map(|folder| folder.display().to_string());
    let path: Vec<String> = own.chain([system.to_owned()]).collect();
    env.insert("PATH".to_owned(), path.join(":"));
    env
}

impl super::Image {
    /// Every folder outside that must be visible inside, but none that lies in another: that one is seen with it.
    fn shown(&self) -> Vec<PathBuf> {
        let all = || self.path.iter().chain(&self.visible);
        let mut shown: Vec<PathBuf> = all()
            .filter(|folder| !all().any(|other| folder.starts_with(other) && *folder != other))
            .cloned()
            .collect();
        shown.sort();
        shown.dedup();
        shown
    }
}
