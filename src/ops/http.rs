//! What `admin.listen` serves: metrics, health, readiness, and a page for people.

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use super::metrics::render_partitions;
use crate::query::{Status, Statuses};

/// Histograms keep every sample until they are asked, or until this.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);
/// The threads that own partitions answer within microseconds.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that this instance must be connected to.
pub struct Dependency {
    /// What people call it.
    pub name: &'static str,
    /// Whether it is connected now.
    pub connected: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What is served from.
pub struct Admin<P> {
    /// Names this instance on the page.
    pub instance: String,
    /// Of the recorder.
    pub metrics: PrometheusHandle,
    /// The partitions that are owned here.
    pub partitions: P,
    /// What must be connected for this instance to be ready.
    pub dependencies: Vec<Dependency>,
}

/// Serves until `shutdown`, and then what was asked before.
///
/// # Errors
/// If the listener breaks.
pub async fn serve<P: Statuses>(
    listener: TcpListener,
    admin: Admin<P>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let metrics = admin.metrics.clone();
    let upkeep = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    });
    let served = axum::serve(listener, router(admin))
        .with_graceful_shutdown(shutdown)
        .await;
    upkeep.abort();
    served
}

fn router<P: Statuses>(admin: Admin<P>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<P>))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready::<P>))
        .route("/", get(page::<P>))
        .with_state(Arc::new(admin))
}

impl<P: Statuses> Admin<P> {
    /// Ascending; none if the threads that own partitions hang.
    async fn status(&self) -> Option<Vec<Status>> {
        let mut status = tokio::time::timeout(STATUS_TIMEOUT, self.partitions.status())
            .await
            .ok()?;
        status.sort_unstable_by_key(|status| status.partition);
        Some(status)
    }

    /// A line for each server that is not connected.
    fn unconnected(&self) -> Vec<String> {
        self.dependencies
            .iter()
            .filter(|dependency| !(dependency.connected)())
            .map(|dependency| format!("{} is not connected", dependency.name))
            .collect()
    }

    /// What keeps this instance from being ready, one line each.
    async fn missing(&self) -> Vec<String> {
        let mut missing = self.unconnected();
        match self.status().await {
            None => missing.push("the threads that own partitions do not answer".to_owned()),
            Some(status) => missing.extend(
                status
                    .iter()
                    .filter(|status| status.phase != "live")
                    .map(|status| format!("partition {} is {}", status.partition, status.phase)),
            ),
        }
        missing
    }
}

async fn metrics<P: Statuses>(State(admin): State<Arc<Admin<P>>>) -> Response {
    metrics_process::Collector::default().collect();
    let status = admin.status().await.unwrap_or_default();
    let mut text = admin.metrics.render();
    text.push_str(&render_partitions(&status));
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

async fn ready<P: Statuses>(State(admin): State<Arc<Admin<P>>>) -> Response {
    let missing = admin.missing().await;
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn page<P: Statuses>(State(admin): State<Arc<Admin<P>>>) -> Response {
    let mut missing = admin.unconnected();
    let status = admin.status().await;
    if status.is_none() {
        missing.push("the threads that own partitions do not answer".to_owned());
    }
    let text = render_page(&admin.instance, missing, &status.unwrap_or_default());
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

/// A table wider than the window scrolls in a box of its own, under its first column.
const STYLE: &str = ":root{color-scheme:light dark}\
body{font:14px/1.4 system-ui,sans-serif;margin:clamp(.8em,3vw,2em);color:#222;background:#fff}\
h1{font-size:1.5em;margin:0 0 .4em}.table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.3em .8em;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}th{font-weight:600}\
th:first-child,td:first-child{position:sticky;left:0;background:#fff}td:nth-child(2),th:nth-child(2){text-align:left}\
a{color:#05c}.bad{color:#b00;font-weight:600}\
@media(prefers-color-scheme:dark){body,th:first-child,td:first-child{color:#ddd;background:#181818}\
th,td{border-color:#444}a{color:#8bf}.bad{color:#f88}}";

const COLUMNS: [&str; 11] = [
    "partition",
    "phase",
    "applied",
    "durable",
    "end",
    "lag, records",
    "lag, s",
    "oldest dirty, s",
    "dirty",
    "read states",
    "channels",
];

fn render_page(instance: &str, mut missing: Vec<String>, partitions: &[Status]) -> String {
    let is_live = |status: &&Status| status.phase == "live";
    let live = partitions.iter().filter(is_live).count();
    if live < partitions.len() {
        // The table says which; a sentence that names a hundred is not read.
        missing.push(format!(
            "{} of {} partitions not live",
            partitions.len() - live,
            partitions.len()
        ));
    }
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=refresh content=2><title>readstates {instance}</title><style>{STYLE}</style>\
         <h1>readstates {}</h1><p>{instance} owns {} partitions: ",
        env!("CARGO_PKG_VERSION"),
        partitions.len(),
        instance = escaped(instance),
    );
    if missing.is_empty() {
        page.push_str("ready");
    } else {
        let _ = write!(page, "<span class=bad>{}</span>", escaped(&missing.join("; ")));
    }
    let _ = write!(
        page,
        ". <a href=/metrics>Metrics</a></p><div class=table><table><tr><th>{}</tr>",
        COLUMNS.join("<th>")
    );
    for status in partitions {
        let offset = |offset: Option<_>| {
            offset.map_or("–".to_owned(), |offset: crate::model::ids::Offset| {
                offset.to_string()
            })
        };
        let cells = [
            status.partition.to_string(),
            status.phase.to_owned(),
            offset(status.applied),
            offset(status.durable),
            offset(status.end),
            status.applied_lag_records.to_string(),
            format!("{:.1}", status.applied_lag_seconds),
            format!("{:.1}", status.oldest_dirty_seconds),
            status.dirty_entries.to_string(),
            status.read_states_cached.to_string(),
            status.channels_cached.to_string(),
        ];
        let [partition, phase, numbers @ ..] = &cells;
        let class = if is_live(&status) { "" } else { " class=bad" };
        let _ = write!(
            page,
            "<tr><td>{partition}<td{class}>{phase}<td>{}</tr>",
            numbers.join("<td>")
        );
    }
    page.push_str("</table></div></html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
