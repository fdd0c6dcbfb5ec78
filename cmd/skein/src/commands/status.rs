//! `skein status`: every role and node on one screen; the exit code says the same.

mod report;

use crate::api::Api;
use crate::cli::{Global, Output};
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, yaml};
use clap::Args;
pub(crate) use report::Report;
use report::{Answer, Replica};

/// Arguments of `skein status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 everything is well; 1 degraded: a role is not ready, a node is not connected or reports
a problem, one of several controllers is away; 2 no config API or no controller answers.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let report = look(&global.api()?, &global.controller()?).await;
    let screen = global.screen();
    match arguments.output.format {
        Format::Json => screen.json(&report.to_json())?,
        Format::Yaml => screen.write(&yaml(&report.to_json())?)?,
        Format::Table | Format::Wide | Format::Name => screen.write(&report.render(screen))?,
    }
    report.verdict()
}

/// Asks every role.
pub(crate) async fn look(api: &Api, controller: &Endpoint) -> Report {
    let apis = api.replicas().map(|replica| async move {
        let state = look_at_api(&replica).await;
        (replica.url().to_owned(), state)
    });
    let controllers = controller.each().map(|one| async move {
        let state = look_at_controller(&one).await;
        (one.url().to_owned(), state)
    });
    let (apis, controllers) = futures_util::future::join(
        futures_util::future::join_all(apis),
        futures_util::future::join_all(controllers),
    )
    .await;
    Report { apis, controllers }
}

async fn look_at_api(replica: &Endpoint) -> Answer<Replica> {
    let ready = match replica.read("/readyz", &[]).await {
        Ok(answer) => answer,
        Err(error) => return Answer::Silent(explain(&error)),
    };
    if ready.status != 200 {
        let reason = ready.body.trim();
        return Answer::Unwell(if reason.is_empty() { "not ready" } else { reason }.to_owned());
    }
    // One that is alone says nothing of leading; one that does not tell is ready all the same.
    let metrics = replica.read("/metrics", &[]).await.map(|page| page.body).unwrap_or_default();
    Answer::Well(Replica {
        leads: figure(&metrics, "skein_api_leader").map(|leads| leads > 0.0),
        behind: figure(&metrics, "skein_api_follower_lag").unwrap_or(0.0),
    })
}

/// A figure without labels, out of OpenMetrics text.
fn figure(text: &str, name: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    values.next()?.trim().parse().ok()
}

async fn look_at_controller(controller: &Endpoint) -> Answer<serde_json::Value> {
    match controller.get("/v1/status", &[]).await {
        Ok(value) => Answer::Well(value),
        Err(error @ (Error::Unreachable { .. } | Error::Untrusted { .. })) => {
            Answer::Silent(explain(&error))
        }
        Err(error) => Answer::Unwell(error.to_string()),
    }
}

fn explain(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, next, .. } => format!("{cause}; {next}"),
        other => other.to_string(),
    }
}
