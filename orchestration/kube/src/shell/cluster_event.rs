//! Events that are written one by one, each with words of its own. Those about objects that are in no namespace belong into
//! `default`; older API servers take them in `kube-system` only.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event as Told, EventType, Reporter};

/// Where Events about objects without a namespace may be.
pub(crate) const OF_CLUSTER: [&str; 2] = ["default", "kube-system"];

/// How much of its object's name an Event's name has, in letters: names have at most 253.
const NAME: usize = 220;

/// Writes one, to the first of these namespaces that takes it.
///
/// # Errors
/// The API server refuses.
pub(crate) async fn publish(
    client: &Client,
    reporter: &Reporter,
    told: &Told,
    regarding: ObjectReference,
    namespaces: &[&str],
) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    // Names of pods may be as long as an Event's own.
    let name: String = regarding.name.iter().flat_map(|name| name.chars()).take(NAME).collect();
    let name = name.trim_end_matches(['.', '-']);
    let kind = match told.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    let event = Event {
        action: Some(told.action.clone()),
        reason: Some(told.reason.clone()),
        note: told.note.clone(),
        type_: Some(kind.to_owned()),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(reporter.instance.clone().unwrap_or_default()),
        regarding: Some(regarding),
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        ..Event::default()
    };
    let mut last = Ok(());
    for namespace in namespaces {
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        last = api.create(&PostParams::default(), &event).await.map(drop);
        match &last {
            Err(kube::Error::Api(status)) if status.code == 422 => {}
            _ => break,
        }
    }
    last
}
