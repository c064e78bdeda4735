//! Whose pod it is (S5). Everything that adopts, counts, clears or ends a pod asks here, so that there is one answer.

use crate::host::Incarnation;
use crate::host::boot::owner_proof_holds;
use crate::provider::Pod;
use crate::session::ledger::pod_name;

/// The variable of a pod's create-time environment that proves who rented it.
const PROOF: &str = "SRCHAT_OWNER";

/// The session's UID and the attempt that a pod was rented for, when it is provably this installation's: its name says so, and
/// its environment holds the proof. Names can be copied, the proof cannot be made without the installation's key.
pub fn owner(pod: &Pod, installation: &str, key: &[u8]) -> Option<(String, u64)> {
    let (uid, attempt) = named(&pod.name, installation)?;
    let incarnation = Incarnation {
        installation: installation.to_owned(),
        uid: uid.clone(),
        attempt,
    };
    let proof = pod.env.get(PROOF)?;
    owner_proof_holds(key, &incarnation, proof).then_some((uid, attempt))
}

/// The session's UID and the attempt in a pod's name, if it is exactly the name of one of this installation's. It proves nothing.
pub fn named(name: &str, installation: &str) -> Option<(String, u64)> {
    let rest = name
        .strip_prefix("srchat-")?
        .strip_prefix(installation)?
        .strip_prefix('-')?;
    let (uid, attempt) = rest.rsplit_once('-')?;
    let attempt = attempt.parse().ok()?;
    (name == pod_name(installation, uid, attempt)).then(|| (uid.to_owned(), attempt))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::boot::owner_proof;
    use crate::provider::PodStatus;

    const UID: &str = "2f1c9a52-7a55-4a3e-9b1e-3f7a6f6a9a10";

    fn pod(name: &str, proof: Option<String>) -> Pod {
        Pod {
            id: "p1".parse().unwrap(),
            name: name.to_owned(),
            status: PodStatus::Running,
            created_at: None,
            started_at: None,
            cost: None,
            ssh: None,
            uptime: None,
            env: proof
                .map(|proof| BTreeMap::from([(PROOF.to_owned(), proof)]))
                .unwrap_or_default(),
            gpu: None,
            count: 1,
            data_center: None,
            image: String::new(),
        }
    }

    fn proof(key: &[u8], attempt: u64) -> Option<String> {
        let incarnation = Incarnation {
            installation: "9f3a2c1b".to_owned(),
            uid: UID.to_owned(),
            attempt,
        };
        Some(owner_proof(key, &incarnation))
    }

    #[test]
    fn a_pod_is_ours_by_its_name_and_its_proof_and_by_neither_alone() {
        let (key, name) = ([7; 32], pod_name("9f3a2c1b", UID, 7));
        let whose = |pod: &Pod| owner(pod, "9f3a2c1b", &key);
        assert_eq!(
            whose(&pod(&name, proof(&key, 7))),
            Some((UID.to_owned(), 7))
        );
        assert_eq!(whose(&pod(&name, None)), None, "a copied name");
        assert_eq!(
            whose(&pod(&name, proof(&[8; 32], 7))),
            None,
            "another installation's proof"
        );
        assert_eq!(
            whose(&pod(&name, proof(&key, 6))),
            None,
            "another attempt's proof"
        );
        assert_eq!(
            whose(&pod("web-1", proof(&key, 7))),
            None,
            "a copied proof under another name"
        );
    }

    #[test]
    fn only_exact_names_of_this_installation_are_read() {
        assert_eq!(
            named(&pod_name("9f3a2c1b", UID, 7), "9f3a2c1b"),
            Some((UID.to_owned(), 7))
        );
        for other in [
            "srchat-9f3a2c1b-x-007",
            "srchat-9f3a2c1b-x-+7",
            "srchat-9f3a2c1b-x-",
            "srchat-00000000-x-1",
            "srchat-9f3a2c1bx-1",
            "web-1",
            &pod_name("9f3a2c1b", UID, 7)[1..],
        ] {
            assert_eq!(named(other, "9f3a2c1b"), None, "{other}");
        }
    }
}
