//! What hosts belong to.

use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};

/// Not an owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no owner: it is written VERSION/KIND/NAME or GROUP/VERSION/KIND/NAME, as in `apps/v1/StatefulSet/onward`"
)]
pub struct OwnerError(String);

/// The object that runs coordinators, such as `apps/v1/StatefulSet/onward`. Not a coordinator's own pod: that one goes when another takes
/// over, and hosts stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    kind: GroupVersionKind,
    name: String,
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let words: Vec<&str> = text.split('/').collect();
        let (group, version, kind, name) = match words[..] {
            [version, kind, name] => ("", version, kind, name),
            [group, version, kind, name] if !group.is_empty() => (group, version, kind, name),
            _ => return Err(OwnerError(text.to_owned())),
        };
        match [version, kind, name].iter().all(|word| !word.is_empty()) {
            true => Ok(Self { kind: GroupVersionKind::gvk(group, version, kind), name: name.to_owned() }),
            false => Err(OwnerError(text.to_owned())),
        }
    }
}

impl Owner {
    /// What roles call its kind: `statefulsets.apps`.
    pub(super) fn resource(&self) -> String {
        let plural = ApiResource::from_gvk(&self.kind).plural;
        match self.kind.group.as_str() {
            "" => plural,
            group => format!("{plural}.{group}"),
        }
    }

    /// As it is now, asked anew for each host: one that was deleted and made again is another one, and hosts of the one before are deleted.
    pub(super) async fn find(&self, client: Client, namespace: &str) -> kube::Result<OwnerReference> {
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&self.kind));
        let found = api.get_metadata(&self.name).await?;
        Ok(OwnerReference {
            api_version: self.kind.api_version(),
            kind: self.kind.kind.clone(),
            name: self.name.clone(),
            uid: found.uid().unwrap_or_default(),
            // It does not look after hosts; it only takes them along.
            controller: None,
            block_owner_deletion: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_a_version_a_kind_and_a_name() {
        for (text, resource) in
            [("apps/v1/StatefulSet/onward", "statefulsets.apps"), ("v1/ConfigMap/onward", "configmaps")]
        {
            assert_eq!(text.parse::<Owner>().map(|owner| owner.resource()), Ok(resource.to_owned()));
        }
        for text in ["", "onward", "StatefulSet/onward", "apps/v1//onward", "/v1/ConfigMap/onward", "a/b/c/d/e"] {
            assert_eq!(text.parse::<Owner>(), Err(OwnerError(text.to_owned())));
        }
    }
}
