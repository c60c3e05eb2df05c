//! The path of a request: accept, classify, fresh, gate, origin, report, tune. [`Flow::serve`] shows it whole.

pub mod accept;
pub mod classify;
pub mod gate;
pub mod origin;
pub mod report;
mod surviving;
mod tracked;
pub mod tune;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode, Uri, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio_util::task::TaskTracker;

use self::{
    accept::{Checked, Connection, Drain, Stage, address, head},
    classify::{
        ClientHasher,
        documents::Documents,
        shell::{Arrival, Read},
    },
    gate::Gate,
    origin::{Answer, CallError, FailureKind, Job, Origin, headers},
    report::{ClientShown, Decided, Exchange, Report, decision, response},
    surviving::Surviving,
    tracked::{FAILURE_PAUSE, Lesson, Side, Tracked},
};
use crate::{
    clock,
    config::{Settings, settings::Expose},
    model::{Effect, Mode, Outcome, Refusal, Rule, Scope},
    profile::{Profile, RouteId},
    wire::{Body, Budget, Fault, Linger, Request, Response, Upload, upload},
};

/// What is in force: settings and profile, changed together or not at all.
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// The profile.
    pub profile: Arc<Profile>,
    routes: Vec<Arc<str>>,
}

impl Plan {
    /// Settings and profile as one.
    #[must_use]
    pub fn new(settings: Settings, profile: Arc<Profile>) -> Self {
        let routes = (0..profile.routes()).filter_map(|index| u16::try_from(index).ok());
        let mut routes: Vec<Arc<str>> = routes.map(|index| Arc::from(profile.route_name(RouteId(index)))).collect();
        routes.push(Arc::from(profile.route_name(RouteId::UNMATCHED)));
        Self { settings, profile, routes }
    }

    fn route(&self, route: RouteId) -> Arc<str> {
        let unmatched = self.routes.len() - 1;
        Arc::clone(&self.routes[usize::from(route.0).min(unmatched)])
    }
}

/// Everything that the path of a request needs.
#[derive(Debug)]
pub struct Flow {
    /// What is in force.
    pub plan: ArcSwap<Plan>,
    /// Admission.
    pub gate: Gate,
    /// What is known of documents.
    pub documents: Arc<Documents>,
    /// The app.
    pub origin: Origin,
    /// What is told.
    pub report: Report,
    /// How far a drain has come.
    pub drain: Drain,
    tasks: TaskTracker,
    linger: Arc<Linger>,
    memory: Arc<Budget>,
    clients: ClientHasher,
    token: String,
    via: HeaderValue,
    ids: AtomicU64,
}

/// A request while its answer is being made.
struct Under<'a> {
    plan: &'a Plan,
    tracked: &'a Arc<Tracked>,
    connection: &'a Connection,
    id: u64,
}

impl Flow {
    /// A path by these settings. `tasks` counts everything that outlives its request.
    #[must_use]
    pub fn new(plan: Plan, report: Report, drain: Drain, tasks: TaskTracker) -> Arc<Self> {
        let settings = &plan.settings;
        let documents = Arc::new(Documents::new(settings));
        let learned = Arc::clone(&documents);
        let moved = Box::new(move |moved: gate::Moved| learned.moved(&moved.documents, moved.class, clock::now()));
        let token = format!("{}-{:08x}", head::PSEUDONYM, fastrand::u32(..));
        let via = HeaderValue::try_from(format!("1.1 {token}")).unwrap_or(HeaderValue::from_static("1.1 tidegate"));
        let gate = &settings.gate;
        Arc::new(Self {
            gate: Gate::new(settings, moved),
            documents,
            origin: Origin::new(&settings.app, settings.listen.body_rate_min, tasks.clone(), drain.clone()),
            report,
            drain,
            tasks,
            linger: Arc::new(Linger::new(gate.lingering_max, gate.linger, gate.linger_bytes)),
            memory: Arc::new(Budget::new(settings.inspect.memory_max)),
            clients: ClientHasher::new([fastrand::u64(..), fastrand::u64(..)]),
            token,
            via,
            ids: AtomicU64::new(fastrand::u64(..)),
            plan: ArcSwap::from_pointee(plan),
        })
    }

    /// New settings and profile take effect whole; nobody who waits or runs notices.
    pub fn reload(&self, plan: Plan) {
        let settings = &plan.settings;
        self.gate.reload(settings);
        self.documents.reload(settings);
        self.origin.reload(&settings.app, settings.listen.body_rate_min);
        self.linger.set(settings.gate.linger, settings.gate.linger_bytes);
        self.memory.resize(settings.inspect.memory_max);
        let routes = plan.routes.iter().map(ToString::to_string).collect();
        self.report.reload(settings, &routes);
        self.plan.store(Arc::new(plan));
    }

    /// Bytes of request bodies that are held.
    #[must_use]
    pub fn inspected_bytes(&self) -> u64 {
        self.memory.used()
    }

    /// A request in, its answer out. When the client leaves, this is dropped: in the queue that gives up its place; a call that has begun
    /// goes on by itself.
    pub async fn serve(self: Arc<Self>, request: Request, connection: Arc<Connection>) -> Response {
        let plan = self.plan.load_full();
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        let tracked = self.track(&head, &connection, id);
        let side = Side::new(&tracked);
        let under = Under { plan: &plan, tracked: &tracked, connection: &connection, id };
        let (mut response, outcome, whole) = self.path(head, body, &under).await;
        tracked.note(|exchange| exchange.status = response.status().as_u16());
        self.finish(&mut response, &under);
        match whole {
            Some(bytes) => side.answered(outcome, bytes),
            None => side.streams(),
        }
        response
    }

    /// The path: each stage may answer, and then the later ones never see the request. With the answer come its outcome and its size,
    /// which is none if its body tells its own end.
    async fn path(self: &Arc<Self>, mut head: Parts, body: hyper::body::Incoming, under: &Under<'_>) -> (Response, Outcome, Option<u64>) {
        let Under { plan, tracked, connection, .. } = under;
        let settings = &plan.settings;
        let has_body = !http_body::Body::is_end_stream(&body);

        let checked = match head::check(&head, has_body, connection.line.is_ambiguous(), &self.token, settings.listen.body_bytes_max) {
            Ok(checked) => checked,
            Err(malformed) => {
                drop(self.upload(body, false, settings));
                return ours(response::malformed(malformed.status(), &malformed.to_string(), under.id), Outcome::Refused, under);
            }
        };

        let upload = self.upload(body, checked.expects, settings);
        let client = address::client_address(connection.peer.ip(), &head.headers, &settings.listen);
        let arrival = Arrival { head: &head, checked, client, bytes_max: settings.inspect.bytes_max };
        let read = match classify::shell::read(&plan.profile, &arrival, upload, &self.memory).await {
            Ok(read) => read,
            Err(fault) => return Self::at_fault(fault, under),
        };
        let Read { mut reading, mut body, progress, bytes, hold } = read;
        if checked.upgrade {
            classify::undeclared_upgrade(&mut reading);
        }
        let key = self.clients.key(&reading.client);
        let intent = classify::intent(&reading, key, &self.documents, clock::now());
        let (class, stream) = (intent.class, intent.stream);
        let repeatable = head.method.is_safe() && matches!(body, Body::Empty) && reading.writes.is_empty();
        tracked.keep(hold, progress.clone());
        tracked.teach(Lesson { documents: intent.documents.clone(), class: reading.class, cost: reading.cost, stream });
        tracked.note(|exchange| {
            exchange.route = plan.route(reading.route);
            exchange.class = Some(class);
            exchange.effect = reading.effect;
            exchange.everything = reading.writes.contains(&Scope::All);
            exchange.documents = reading.reads;
            exchange.documents.extend(reading.writes);
            exchange.client = ClientShown::of(reading.client, key, settings.log.clients_plain);
            exchange.stream = stream;
            exchange.bytes_in = bytes;
        });

        let permit = match self.gate.enter(intent).await {
            Ok(permit) => permit,
            Err(refused) => {
                let gate::Refused { refusal, shadows, waited } = *refused;
                tracked.note(|exchange| {
                    exchange.waited = Some(waited);
                    exchange.shadows = shadows;
                });
                return Self::refused(&refusal, under);
            }
        };

        tracked.note(|exchange| {
            exchange.waited = Some(permit.waited);
            exchange.predicted = permit.predicted;
        });
        let upgrade = self.prepare(&mut head, &mut body, checked, under);
        let watch = Arc::clone(tracked) as Arc<dyn origin::Watch>;
        let head_timeout = settings.of(class).head_timeout;
        let job = Job { head, body, progress, permit, watch, repeatable, stream, upgrade, head_timeout };
        let flow = Arc::clone(self);
        let call = async move { flow.origin.call(job).await };
        let answered = if stream { call.await } else { Surviving::new(call, self.tasks.clone()).await };
        match answered {
            Ok(Answer { head, body, whole }) => (Response::from_parts(head, body), Outcome::Forwarded, whole),
            Err(CallError::App(kind)) => Self::failed(kind, under),
            Err(CallError::Client(fault)) => Self::at_fault(fault, under),
            Err(CallError::Streams) => {
                let retry_after = FAILURE_PAUSE.mul_f64(1.0 + fastrand::f64() / 2.0);
                Self::refused(&Refusal { rule: Rule::Stream, own_doing: false, retry_after }, under)
            }
        }
    }

    fn track(&self, head: &Parts, connection: &Connection, id: u64) -> Arc<Tracked> {
        let now = clock::now();
        let exchange = Exchange {
            id,
            method: head.method.clone(),
            target: Some(head.uri.clone()),
            client: ClientShown::Hashed(self.clients.key(&crate::profile::Client::Address(connection.peer.ip()))),
            route: Arc::from(""),
            class: None,
            account: None,
            documents: Vec::new(),
            effect: Effect::None,
            everything: false,
            stream: false,
            outcome: Outcome::Gone,
            rule: None,
            failure: None,
            shadows: gate::Shadows::new(),
            status: 0,
            app_status: None,
            arrived: now,
            ended: now,
            waited: None,
            predicted: None,
            app: None,
            database: None,
            queries: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        Tracked::new(exchange, self.report.clone(), Arc::clone(&self.documents), Arc::clone(&connection.line), head.version)
    }

    fn upload(&self, body: hyper::body::Incoming, expects: bool, settings: &Settings) -> Upload {
        let listen = &settings.listen;
        let limits = upload::Limits { idle: listen.body_timeout, bytes_max: listen.body_bytes_max, rate_min: listen.body_rate_min };
        Upload::new(body, expects, limits, Arc::clone(&self.linger))
    }

    /// Makes the head that of the next hop, and gives the client's side of the upgrade that it asks for.
    fn prepare(&self, head: &mut Parts, body: &mut Body, checked: Checked, under: &Under<'_>) -> Option<OnUpgrade> {
        let peer = under.connection.peer.ip();
        let trusted = address::is_trusted(peer, &under.plan.settings.listen.trusted_proxies);
        let upgrade = checked.upgrade.then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        let peer_text = &under.connection.peer_text;
        let hop = headers::Hop { peer, peer_text, trusted, via: &self.via, upgrade: upgrade.is_some() };
        headers::outgoing(&mut head.headers, &hop);
        frame(head, body, checked);
        head.version = Version::HTTP_11;
        if head.uri.scheme().is_some() {
            head.uri = head.uri.path_and_query().map_or(Uri::from_static("/"), |path| Uri::from(path.clone()));
        }
        if let Body::Upload(upload) = body {
            upload.charge();
        }
        upgrade
    }

    /// The client's own body failed.
    fn at_fault(fault: Fault, under: &Under<'_>) -> (Response, Outcome, Option<u64>) {
        let outcome = if fault == Fault::Gone { Outcome::Gone } else { Outcome::Refused };
        ours(response::malformed(fault.status(), &fault.to_string(), under.id), outcome, under)
    }

    fn refused(refusal: &Refusal, under: &Under<'_>) -> (Response, Outcome, Option<u64>) {
        under.tracked.note(|exchange| exchange.rule = Some(refusal.rule));
        let class = under.tracked.note(|exchange| exchange.class);
        let name = class.map_or("none", |class| under.plan.settings.classes.name(class));
        let response = response::refusal(&under.plan.profile, refusal, name, under.id);
        let size = size_of(&response);
        (response, Outcome::Refused, Some(size))
    }

    fn failed(kind: FailureKind, under: &Under<'_>) -> (Response, Outcome, Option<u64>) {
        let class = under.tracked.note(|exchange| {
            exchange.failure = Some(kind);
            exchange.class
        });
        let name = class.map_or("none", |class| under.plan.settings.classes.name(class));
        let pause = FAILURE_PAUSE.mul_f64(1.0 + fastrand::f64() / 2.0);
        let response = response::failure(&under.plan.profile, kind, pause, name, under.id);
        let size = size_of(&response);
        (response, Outcome::Failed, Some(size))
    }

    /// What every answer carries: the decision, where it may be seen, and the end of the connection in a drain.
    fn finish(&self, response: &mut Response, under: &Under<'_>) {
        let settings = &under.plan.settings;
        let exposed = match settings.report.expose {
            Expose::None => false,
            Expose::All => true,
            Expose::Trusted => {
                let peer = under.connection.peer.ip().to_canonical();
                peer.is_loopback() || address::is_trusted(peer, &settings.listen.trusted_proxies)
            }
        };
        if exposed {
            let (class, rule) =
                under.tracked.note(|exchange| (exchange.class, exchange.rule.or_else(|| exchange.shadows.first().copied())));
            let name = class.map_or("none", |class| settings.classes.name(class));
            let mode = decided_mode(settings, class, rule);
            response.headers_mut().insert("tidegate-decision", decision::decision(name, Decided { rule, mode }));
        }
        if self.drain.stage() > Stage::Open && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn decided_mode(settings: &Settings, class: Option<crate::model::Class>, rule: Option<Rule>) -> Mode {
    let Some(class) = class.map(|class| settings.of(class)) else { return settings.gate.mode };
    match rule {
        Some(Rule::ClientRate) => class.client_rate.map_or(class.mode, |rate| rate.mode),
        Some(Rule::ClassRate) => class.rate.map_or(class.mode, |rate| rate.mode),
        Some(Rule::ClientCap) => class.client_mode,
        Some(Rule::Malformed | Rule::Closed) => Mode::Enforce,
        _ => settings.gate.mode,
    }
}

/// An answer of ours to a request that was itself at fault.
fn ours(response: Response, outcome: Outcome, under: &Under<'_>) -> (Response, Outcome, Option<u64>) {
    under.tracked.note(|exchange| exchange.rule = Some(Rule::Malformed));
    let size = size_of(&response);
    (response, outcome, Some(size))
}

fn size_of(response: &Response) -> u64 {
    http_body::Body::size_hint(response.body()).exact().unwrap_or(0)
}

/// Frames the body anew, by its length where that is known, else by chunks (RFC 9112 section 6).
fn frame(head: &mut Parts, body: &Body, checked: Checked) {
    let length = http_body::Body::size_hint(body).exact();
    let declared = checked.length.is_some() || checked.body;
    head.headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = length
        && declared
    {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}
