//! The path of a request: accept, classify, fresh, gate, origin, report, tune. [`Flow::serve`] shows it whole.

pub mod accept;
mod background;
pub mod classify;
pub mod fresh;
pub mod gate;
pub mod origin;
pub mod report;
mod shared;
mod surviving;
mod tracked;
pub mod tune;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use self::{
    accept::{Checked, Connection, Drain, Stage, address, head},
    classify::{
        ClientHasher,
        documents::Documents,
        shell::{Arrival, Read},
        watching::Watching,
    },
    fresh::{
        Fresh,
        shell::{Doubts, Generation},
        stake::{Stake, Whose, Write},
    },
    gate::{Gate, Permit},
    origin::{Answer, CallError, Job, Origin, headers},
    report::{ClientShown, Decided, Exchange, Report, cache_status, decision, response},
    shared::Standing,
    surviving::Surviving,
    tracked::{FAILURE_PAUSE, Lesson, Side, Tracked},
};
use crate::{
    clock,
    config::{Settings, settings::Expose},
    model::{Class, Effect, FailureKind, Intent, Mode, Outcome, Refusal, Rule, Scope},
    profile::{Profile, Reading, RouteId},
    wire::{Body, Budget, Fault, Linger, Request, Response, Upload, upload},
};

/// What is in force: settings and profile, changed together or not at all.
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// The profile.
    pub profile: Arc<Profile>,
    /// Who was read by this profile.
    generation: Arc<Generation>,
    routes: Vec<Arc<str>>,
}

impl Plan {
    /// Settings and profile as one.
    #[must_use]
    pub fn new(settings: Settings, profile: Arc<Profile>) -> Self {
        let routes = (0..profile.routes()).filter_map(|index| u16::try_from(index).ok());
        let mut routes: Vec<Arc<str>> = routes.map(|index| Arc::from(profile.route_name(RouteId(index)))).collect();
        routes.push(Arc::from(profile.route_name(RouteId::UNMATCHED)));
        let generation = Generation::new(fastrand::u64(..), profile.routes());
        Self { settings, profile, generation, routes }
    }

    fn name(&self, class: Option<Class>) -> &str {
        class.map_or("none", |class| self.settings.classes.name(class))
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
    /// Answers that are provably unchanged.
    pub fresh: Arc<Fresh>,
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
    /// Plans that a reload has replaced, of which requests still run.
    old: Mutex<Vec<Arc<Plan>>>,
    tasks: TaskTracker,
    linger: Arc<Linger>,
    memory: Arc<Budget>,
    clients: ClientHasher,
    token: String,
    via: HeaderValue,
    ids: AtomicU64,
}

/// How a request was answered.
struct Answered {
    response: Response,
    outcome: Outcome,
    /// The size of its body; none if the body tells its own end.
    whole: Option<u64>,
}

/// A request with a sound head.
struct Arrived {
    head: Parts,
    upload: Upload,
    checked: Checked,
    client: IpAddr,
    upgrade: Option<OnUpgrade>,
}

/// A request that was read.
struct Asked {
    head: Parts,
    body: Body,
    progress: Option<Arc<upload::Progress>>,
    checked: Checked,
    class: Class,
    repeatable: bool,
    stream: bool,
    upgrade: Option<OnUpgrade>,
    /// What its call will do to documents, and how that ends.
    stake: Box<Stake>,
    /// It is a poll whose answer may be kept.
    poll: Option<Arc<fresh::Poll>>,
}

/// A request while its answer is being made.
struct Under<'a> {
    plan: &'a Arc<Plan>,
    tracked: &'a Arc<Tracked>,
    connection: &'a Connection,
    id: u64,
}

impl Flow {
    /// A path by these settings. `tasks` counts everything that outlives its request; `doubts` is what a clean stop left in doubt.
    #[must_use]
    pub fn new(plan: Plan, report: Report, drain: Drain, tasks: TaskTracker, doubts: Option<Doubts>) -> Arc<Self> {
        let settings = &plan.settings;
        let documents = Arc::new(Documents::new(settings));
        let learned = Arc::clone(&documents);
        let moved = Box::new(move |moved: gate::Moved| learned.moved(&moved.documents, moved.class, clock::now()));
        let token = format!("{}-{:08x}", head::PSEUDONYM, fastrand::u32(..));
        let via = HeaderValue::try_from(format!("1.1 {token}")).unwrap_or(HeaderValue::from_static("1.1 tidegate"));
        let gate = &settings.gate;
        report.routes(&plan.routes);
        Arc::new(Self {
            fresh: Fresh::new(settings, &plan.profile, doubts, Box::new(report.clone())),
            gate: Gate::new(settings, moved),
            documents,
            origin: Origin::new(&settings.app, settings.listen.body_rate_min, tasks.clone(), drain.clone()),
            report,
            drain,
            old: Mutex::default(),
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
    pub fn reload(&self, mut plan: Plan) {
        let settings = &plan.settings;
        self.fresh.reload(settings);
        self.gate.reload(settings);
        self.documents.reload(settings);
        self.origin.reload(&settings.app, settings.listen.body_rate_min);
        self.linger.set(settings.gate.linger, settings.gate.linger_bytes);
        self.memory.resize(settings.inspect.memory_max);
        let routes = plan.routes.iter().map(ToString::to_string).collect();
        self.report.routes(&plan.routes);
        self.report.reload(settings, &routes);
        self.renew(&mut plan);
        self.plan.store(Arc::new(plan));
    }

    /// A profile that reads everything as the one before does goes on with what is stored; any other begins anew (FRESH rule 17).
    fn renew(&self, plan: &mut Plan) {
        let current = self.plan.load_full();
        let alike = |old: &Plan, route| old.profile.meaning_up_to(route) == plan.profile.meaning_up_to(route);
        if alike(&current, RouteId::UNMATCHED) {
            plan.generation = Arc::clone(&current.generation);
            return;
        }
        let dropped = self.fresh.answers.view().count;
        let mut old = self.old.lock();
        old.retain(|plan| !plan.generation.is_empty());
        old.push(current);
        for old in &*old {
            // What was read alike by the last profile need not be by this one.
            self.fresh.retire(&old.generation, |route| alike(old, route));
        }
        tracing::warn!(dropped, "the profile reads requests differently from the one before: every stored answer was dropped");
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
        let tracked = self.track(head.method.clone(), Some(head.uri.clone()), head.version, &connection, id);
        let side = Side::new(&tracked);
        let under = Under { plan: &plan, tracked: &tracked, connection: &connection, id };
        let answered = match self.path(head, body, &under).await {
            Ok(answered) => answered,
            Err(ours) => *ours,
        };
        let Answered { mut response, outcome, whole } = answered;
        if outcome != Outcome::Gone {
            tracked.note(|exchange| exchange.status = response.status().as_u16());
        }
        self.finish(&mut response, &under);
        match whole {
            Some(bytes) => side.answered(outcome, bytes),
            None => side.streams(),
        }
        response
    }

    /// The path. A stage that answers by itself ends it, and the later ones never see the request.
    async fn path(self: &Arc<Self>, head: Parts, body: Incoming, under: &Under<'_>) -> Result<Answered, Box<Answered>> {
        let arrived = self.accept(head, body, under)?;
        let (asked, intent) = self.classify(arrived, under).await?;
        let standing = self.fresh(asked, intent, under)?;
        self.stand(standing, under).await
    }

    async fn stand(self: &Arc<Self>, standing: Standing, under: &Under<'_>) -> Result<Answered, Box<Answered>> {
        match standing {
            // Boxed: what is answered here need not carry the rest of the path along, whose futures are large.
            Standing::Alone(asked, intent) => Box::pin(self.alone(asked, intent, under)).await,
            Standing::Leads(lead, asked, intent) => Box::pin(self.lead(lead, asked, intent, under)).await,
            Standing::Shares(member, shared, asked, intent) => Box::pin(self.share(member, shared, asked, intent, under)).await,
        }
    }

    /// Through the gate to the app, for itself alone.
    async fn alone(self: &Arc<Self>, asked: Asked, intent: Intent, under: &Under<'_>) -> Result<Answered, Box<Answered>> {
        let permit = self.admit(intent, under).await?;
        self.forward(asked, permit, under).await
    }

    /// Nothing that two parsers could read differently goes on, and the head becomes that of the next hop.
    fn accept(&self, mut head: Parts, body: Incoming, under: &Under<'_>) -> Result<Arrived, Box<Answered>> {
        let settings = &under.plan.settings;
        let has_body = !http_body::Body::is_end_stream(&body);
        let ambiguous = under.connection.line.is_ambiguous();
        match head::check(&head, has_body, ambiguous, &self.token, settings.listen.body_bytes_max) {
            Ok(checked) => {
                let upload = self.upload(body, checked.expects, settings);
                let client = address::client_address(under.connection.peer.ip(), &head.headers, &settings.listen);
                let upgrade = self.prepare(&mut head, checked, under);
                Ok(Arrived { head, upload, checked, client, upgrade })
            }
            Err(malformed) => {
                drop(self.upload(body, false, settings));
                Err(at_fault(malformed.status(), &malformed.to_string(), under))
            }
        }
    }

    /// What it is, as far as it must be read for that.
    async fn classify(&self, arrived: Arrived, under: &Under<'_>) -> Result<(Asked, Intent), Box<Answered>> {
        let Under { plan, tracked, .. } = under;
        let Arrived { head, upload, checked, client, upgrade } = arrived;
        let arrival = Arrival { head: &head, checked, client, bytes_max: plan.settings.inspect.bytes_max };
        let read = classify::shell::read(&plan.profile, &arrival, upload, &self.memory).await;
        let Read { mut reading, mut body, progress, bytes, hold } = read.map_err(|fault| body_failed(fault, under))?;
        if checked.upgrade {
            classify::undeclared_upgrade(&mut reading);
        }
        let key = self.clients.key(&reading.client);
        let stream = reading.stream.is_some();
        let mut intent = classify::intent(&reading, key, &self.documents, clock::now());
        // What asks for an upgrade is held to the limits of streams before it is sent, whether or not the app agrees.
        intent.stream |= upgrade.is_some();
        let repeatable = head.method.is_safe() && matches!(body, Body::Empty) && reading.effect != Effect::Write;
        let (mut stake, poll) = self.stake(&mut reading, &head, &body, under);
        tracked.keep(hold, progress.clone());
        tracked.teach(Lesson { documents: intent.documents.clone(), class: reading.class, cost: reading.cost, stream });
        tracked.note(|exchange| {
            exchange.route = plan.route(reading.route);
            exchange.class = Some(intent.class);
            exchange.effect = reading.effect;
            exchange.everything = reading.writes.contains(&Scope::All);
            exchange.documents = reading.reads;
            exchange.documents.extend(reading.writes);
            exchange.client = ClientShown::of(reading.client, key, plan.settings.log.clients_plain);
            exchange.stream = stream;
            exchange.bytes_in = bytes;
        });
        if let (Some(watcher), Body::Upload(upload)) = (reading.watch, &mut body) {
            let (tracked, widening) = (Arc::clone(tracked), stake.widening());
            let widen = move || {
                widening.widen();
                tracked.note(Exchange::widen);
            };
            upload.watch(Box::new(Watching::new(watcher, Box::new(widen))));
        }
        let class = intent.class;
        Ok((Asked { head, body, progress, checked, class, repeatable, stream, upgrade, stake, poll }, intent))
    }

    /// What the request will do to documents, and what it asks if that may be answered here.
    fn stake(&self, reading: &mut Reading, head: &Parts, body: &Body, under: &Under<'_>) -> (Box<Stake>, Option<Arc<fresh::Poll>>) {
        let plan = under.plan;
        let member = plan.generation.enter(reading.route, &self.fresh.ledger);
        let later = reading.later.take();
        let touched = self.fresh.keys.writes(&reading.writes);
        let write = (!touched.is_empty() || later.is_some()).then(|| Write::new(&self.fresh, touched, later));
        // Trailers are no part of a question, so what has some is none.
        let whole: Option<&[u8]> = match body {
            Body::Empty => Some(&[]),
            Body::Full(bytes) => Some(bytes),
            Body::Trailed(..) | Body::Upload(_) | Body::Tap(_) => None,
        };
        let poll = match self.fresh.poll(&plan.profile, member.generation(), reading, head, whole) {
            Ok(poll) => Some(Arc::new(poll)),
            Err(why) => {
                shared::note(reading.route, fresh::Why::NoPoll(why), under);
                None
            }
        };
        let of = Whose {
            profile: Arc::clone(&plan.profile),
            route: reading.route,
            credential: self.fresh.credential(reading, head),
            is_head: head.method == Method::HEAD,
            is_stream: reading.stream.is_some(),
        };
        (Stake::new(Arc::clone(&self.fresh), of, member, write, poll.clone()), poll)
    }

    /// A seat, or a refusal that says when to come back.
    async fn admit(&self, intent: Intent, under: &Under<'_>) -> Result<Permit, Box<Answered>> {
        match self.gate.enter(intent).await {
            Ok(permit) => {
                under.tracked.note(|exchange| {
                    exchange.waited = Some(permit.waited);
                    exchange.predicted = permit.predicted;
                });
                Ok(permit)
            }
            Err(refused) => Err(refused_at_gate(*refused, under)),
        }
    }

    /// The app's answer. The call goes on by itself when its client leaves, unless it is open-ended.
    async fn forward(self: &Arc<Self>, asked: Asked, permit: Permit, under: &Under<'_>) -> Result<Answered, Box<Answered>> {
        let stream = asked.stream;
        let watch = Arc::clone(under.tracked) as Arc<dyn origin::Watch>;
        let job = job(asked, permit, watch, under.plan);
        let flow = Arc::clone(self);
        let call = async move { flow.origin.call(job).await };
        let answer = if stream { call.await } else { Surviving::new(call, self.tasks.clone()).await };
        match answer {
            Ok(Answer { head, body, whole }) => {
                Ok(Answered { response: Response::from_parts(head, body), outcome: Outcome::Forwarded, whole })
            }
            Err(error) => Err(call_failed(error, under)),
        }
    }

    /// Reports a head that hyper refused by itself, of which nothing is known but the status that answered it.
    pub fn malformed_head(&self, connection: &Connection, status: StatusCode) {
        let unread = Method::from_bytes(b"-").unwrap_or_default();
        let tracked = self.track(unread, None, Version::HTTP_11, connection, self.ids.fetch_add(1, Ordering::Relaxed));
        tracked.note(|exchange| {
            exchange.rule = Some(Rule::Malformed);
            exchange.status = status.as_u16();
        });
        tracked.end(Outcome::Refused, 0);
    }

    fn track(&self, method: Method, target: Option<Uri>, version: Version, connection: &Connection, id: u64) -> Arc<Tracked> {
        let now = clock::now();
        let exchange = Exchange {
            id,
            method,
            target,
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
            poll: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        Tracked::new(exchange, self.report.clone(), Arc::clone(&self.documents), Arc::clone(&connection.line), version)
    }

    fn upload(&self, body: Incoming, expects: bool, settings: &Settings) -> Upload {
        let listen = &settings.listen;
        let limits = upload::Limits { idle: listen.body_timeout, bytes_max: listen.body_bytes_max, rate_min: listen.body_rate_min };
        Upload::new(body, expects, limits, Arc::clone(&self.linger))
    }

    /// Makes the head that of the next hop before anything is read from it, so that what is read is what the app reads. Gives the client's
    /// side of the upgrade that it asks for.
    fn prepare(&self, head: &mut Parts, checked: Checked, under: &Under<'_>) -> Option<OnUpgrade> {
        let settings = &under.plan.settings;
        let peer = under.connection.peer.ip();
        let trusted = address::is_trusted(peer, &settings.listen.trusted_proxies);
        let upgrade = checked.upgrade.then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        let peer_text = &under.connection.peer_text;
        let hop = headers::Hop { peer, peer_text, trusted, via: &self.via, upgrade: upgrade.is_some() };
        headers::outgoing(&mut head.headers, &hop);
        // HTTP/1.0 may come without; HTTP/1.1, in which it goes on, may not (RFC 9112 section 3.2).
        if !head.headers.contains_key(header::HOST)
            && let Some(Ok(host)) = settings.app.servers.first().map(|server| HeaderValue::from_str(server))
        {
            head.headers.insert(header::HOST, host);
        }
        head.version = Version::HTTP_11;
        if head.uri.scheme().is_some() {
            head.uri = head.uri.path_and_query().map_or(Uri::from_static("/"), |path| Uri::from(path.clone()));
        }
        upgrade
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
            let name = under.plan.name(class);
            let mode = decided_mode(settings, class, rule);
            response.headers_mut().insert("tidegate-decision", decision::decision(name, Decided { rule, mode }));
        }
        if let Some(poll) = under.tracked.note(|exchange| exchange.poll) {
            let (end, stored) = poll.refined();
            response.headers_mut().append("cache-status", cache_status(end, stored));
        }
        if self.drain.stage() > Stage::Open && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn decided_mode(settings: &Settings, class: Option<Class>, rule: Option<Rule>) -> Mode {
    let Some(class) = class.map(|class| settings.of(class)) else { return settings.gate.mode };
    match rule {
        Some(Rule::ClientRate) => class.client_rate.map_or(class.mode, |rate| rate.mode),
        Some(Rule::ClassRate) => class.rate.map_or(class.mode, |rate| rate.mode),
        Some(Rule::ClientCap) => class.client_mode,
        Some(Rule::Malformed | Rule::Closed) => Mode::Enforce,
        _ => settings.gate.mode,
    }
}

/// The client's own body failed.
fn body_failed(fault: Fault, under: &Under<'_>) -> Box<Answered> {
    if fault == Fault::Gone {
        let response = response::malformed(fault.status(), &fault.to_string(), under.id);
        return Box::new(Answered { response, outcome: Outcome::Gone, whole: Some(0) });
    }
    at_fault(fault.status(), &fault.to_string(), under)
}

/// The request was itself at fault.
fn at_fault(status: StatusCode, detail: &str, under: &Under<'_>) -> Box<Answered> {
    under.tracked.note(|exchange| exchange.rule = Some(Rule::Malformed));
    ours(response::malformed(status, detail, under.id), Outcome::Refused)
}

fn refused_by(refusal: &Refusal, under: &Under<'_>) -> Box<Answered> {
    let class = under.tracked.note(|exchange| {
        exchange.rule = Some(refusal.rule);
        exchange.class
    });
    ours(response::refusal(&under.plan.profile, refusal, under.plan.name(class), under.id), Outcome::Refused)
}

/// The gate refused.
fn refused_at_gate(refused: gate::Refused, under: &Under<'_>) -> Box<Answered> {
    let gate::Refused { refusal, shadows, waited } = refused;
    under.tracked.note(|exchange| {
        exchange.waited = Some(waited);
        exchange.shadows = shadows;
    });
    refused_by(&refusal, under)
}

/// There is no answer of the app.
fn call_failed(error: CallError, under: &Under<'_>) -> Box<Answered> {
    match error {
        CallError::App(kind) => app_failed(kind, under),
        CallError::Client(fault) => body_failed(fault, under),
        CallError::Streams => refused_by(&Refusal { rule: Rule::Stream, own_doing: false, retry_after: pause() }, under),
    }
}

/// A request with its seat, as a call.
fn job(asked: Asked, permit: Permit, watch: Arc<dyn origin::Watch>, plan: &Plan) -> Job {
    let Asked { mut head, mut body, progress, checked, class, repeatable, stream, upgrade, stake, .. } = asked;
    frame(&mut head, &body, checked);
    if let Body::Upload(upload) = &mut body {
        upload.charge();
    }
    let head_timeout = plan.settings.of(class).head_timeout;
    Job { head, body, progress, permit, watch, stake, repeatable, stream, upgrade, head_timeout }
}

fn app_failed(kind: FailureKind, under: &Under<'_>) -> Box<Answered> {
    let class = under.tracked.note(|exchange| {
        exchange.failure = Some(kind);
        exchange.class
    });
    ours(response::failure(&under.plan.profile, kind, pause(), under.plan.name(class), under.id), Outcome::Failed)
}

/// An answer of ours, whose body is whole.
fn ours(response: Response, outcome: Outcome) -> Box<Answered> {
    let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    Box::new(Answered { response, outcome, whole: Some(size) })
}

/// How long a client is asked to stay away where no rule has computed it, jittered.
fn pause() -> Duration {
    FAILURE_PAUSE.mul_f64(1.0 + fastrand::f64() / 2.0)
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
