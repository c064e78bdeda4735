//! The control plane of the rig is a real one: it authenticates, authorizes, collects garbage and remembers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use srchat_tests::eventually::eventually;
use srchat_tests::{cluster, control_plane::ControlPlane};

/// What the controller manager does takes it a few seconds on a busy machine.
const CONTROLLER_MANAGER: Duration = Duration::from_secs(60);

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([("key".to_owned(), "value".to_owned())])),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn what_an_owner_leaves_behind_is_collected() {
    let control_plane = ControlPlane::shared().await;
    let namespace = control_plane.namespace("garbage").await.unwrap();
    let api: Api<ConfigMap> = Api::namespaced(control_plane.client().await.unwrap(), &namespace);
    let owner = api
        .create(&PostParams::default(), &config_map("owner"))
        .await
        .unwrap();
    let mut owned = config_map("owned");
    owned.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: "owner".to_owned(),
        uid: owner.metadata.uid.unwrap(),
        ..OwnerReference::default()
    }]);
    api.create(&PostParams::default(), &owned).await.unwrap();
    api.delete("owner", &DeleteParams::background())
        .await
        .unwrap();
    eventually(
        "the owned object to be collected",
        CONTROLLER_MANAGER,
        || async {
            match api.get_opt("owned").await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_deleted_namespace_takes_what_is_in_it_along() {
    let control_plane = ControlPlane::shared().await;
    let client = control_plane.client().await.unwrap();
    let namespace = control_plane.namespace("ending").await.unwrap();
    Api::<ConfigMap>::namespaced(client.clone(), &namespace)
        .create(&PostParams::default(), &config_map("inside"))
        .await
        .unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces
        .delete(&namespace, &DeleteParams::default())
        .await
        .unwrap();
    eventually("the namespace to be gone", CONTROLLER_MANAGER, || async {
        match namespaces.get_opt(&namespace).await {
            Ok(None) => Ok(()),
            other => Err(format!(
                "{:?}",
                other.map(|found| found.and_then(|namespace| namespace.status))
            )),
        }
    })
    .await;
}

#[tokio::test]
async fn a_service_account_may_do_nothing_that_no_role_gives_it_and_is_recorded() {
    let control_plane = ControlPlane::shared().await;
    let namespace = control_plane.namespace("accounts").await.unwrap();
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("nobody".to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    Api::namespaced(control_plane.client().await.unwrap(), &namespace)
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let kubeconfig = control_plane
        .kubeconfig_of(&namespace, "nobody")
        .await
        .unwrap();
    let client = cluster::client(&kubeconfig).await.unwrap();

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let refused = secrets
        .list(&kube::api::ListParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );
    // Everybody may ask what they may do: the token is a real one, only without rights.
    let asked = ResourceAttributes {
        namespace: Some(namespace.clone()),
        verb: Some("get".to_owned()),
        resource: Some("secrets".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(asked),
            ..Default::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::<SelfSubjectAccessReview>::all(client)
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    assert!(!answer.status.unwrap().allowed);

    let user = format!("system:serviceaccount:{namespace}:nobody");
    eventually(
        "the refusal to be in the audit log",
        CONTROLLER_MANAGER,
        || async {
            let log = std::fs::read_to_string(control_plane.audit_log()).unwrap();
            let recorded = log.lines().any(|line| {
                line.contains(&user)
                    && line.contains("\"resource\":\"secrets\"")
                    && line.contains("\"code\":403")
            });
            if recorded {
                Ok(())
            } else {
                Err("it is not there")
            }
        },
    )
    .await;
}

#[tokio::test]
async fn kubectl_talks_to_it_and_to_nothing_of_the_callers() {
    let control_plane = ControlPlane::shared().await;
    let version =
        srchat_tests::tools::run(control_plane.kubectl().args(["version", "--output=json"]))
            .unwrap();
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!(
        version["serverVersion"]["gitVersion"],
        version["clientVersion"]["gitVersion"]
    );
    let server = srchat_tests::tools::run(control_plane.kubectl().args([
        "config",
        "view",
        "--minify",
        "--output=jsonpath={.clusters[0].cluster.server}",
    ]))
    .unwrap();
    assert_eq!(server, control_plane.url());
}

#[tokio::test]
async fn a_restarted_api_server_knows_what_it_knew() {
    let mut control_plane = ControlPlane::start().await.unwrap();
    let namespace = control_plane.namespace("kept").await.unwrap();
    control_plane.restart_api_server().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(control_plane.client().await.unwrap());
    assert!(namespaces.get_opt(&namespace).await.unwrap().is_some());
}

#[tokio::test]
async fn its_end_leaves_no_process_and_no_file() {
    let control_plane = ControlPlane::start().await.unwrap();
    let place = control_plane.logs().to_owned();
    let url = control_plane.url().to_owned();
    drop(control_plane);
    assert!(!place.exists());
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let of_ours = std::fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&*place.to_string_lossy())
    });
    assert!(of_ours.is_none(), "{of_ours:?}");
}
