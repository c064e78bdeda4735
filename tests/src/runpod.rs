//! RunPod, simulated: REST v2 on one port, the ledger of what really happened on another, and pods in which real things run.
//! It is strict where RunPod is, and wrong wherever a fault says so.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

use crate::hosts::{Hosts, Isolation, Machine};

mod api;
mod billing;
mod catalog;
mod clock;
mod container;
mod control;
mod decoys;
mod faults;
mod images;
mod ledger;
mod limits;
mod log;
mod pod;
mod problem;
mod request;
mod world;

pub use self::{
    catalog::{GPUS, Gpu, Level},
    clock::Clock,
    faults::{Call, Fault, Kind},
    images::{Image, Images},
    ledger::{Entry, Ledger, Totals},
    limits::Limits,
    pod::{Boot, EndedBy, Status},
};
use self::{problem::Problem, request::Request, world::Caller, world::World};

/// How a simulator is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// What runs in a pod. With [`Hosts::None`] containers start on time and write nothing.
    pub hosts: Hosts,
    /// Its time.
    pub clock: Clock,
    /// How long the stages of a pod's start take.
    pub boot: Boot,
    /// The account's key; a random one when `None`.
    pub key: Option<String>,
    /// The rate limit; `None` for a user that is exempt.
    pub limits: Option<Limits>,
    /// What the images are.
    pub images: Images,
    /// Loopback addresses besides the simulator's own that pods can reach.
    pub reach: Vec<SocketAddr>,
    /// Lists come in pages of this many, also when nobody asked for pages.
    pub page: Option<usize>,
    /// Whether a pod's own key may end the pod.
    pub own_key_may_delete: bool,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where the ledger and the switches listen.
    pub listen_ledger: SocketAddr,
}

impl Default for Options {
    /// Quick pods in which nothing runs, in real time, under RunPod's usual rate limit.
    fn default() -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            hosts: Hosts::None,
            clock: Clock::running(),
            boot: Boot::quick(),
            key: None,
            limits: Some(Limits::default()),
            images: Images::default(),
            reach: Vec::new(),
            page: None,
            own_key_may_delete: true,
            listen: anywhere,
            listen_ledger: anywhere,
        }
    }
}

/// A running simulator. Dropping it ends it without waiting for its pods; [`Simulator::stop`] waits.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    key: String,
    url: String,
    ledger_url: String,
    servers: JoinSet<()>,
}

/// What the servers and the pods share.
#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    clock: Clock,
    hosts: Hosts,
    reach: Vec<SocketAddr>,
    page: Option<usize>,
    machines: Mutex<HashMap<String, Weak<Machine>>>,
    /// Those who keep the containers; each ends after its pod.
    keepers: Mutex<JoinSet<()>>,
    /// Creates that take effect after whoever asked may have gone.
    late: Mutex<JoinSet<()>>,
    strangers_logins: Arc<AtomicU64>,
}

impl Simulator {
    /// Starts both servers.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(options: Options) -> io::Result<Self> {
        let Options {
            hosts,
            clock,
            boot,
            key,
            limits,
            images,
            mut reach,
            page,
            own_key_may_delete,
            listen,
            listen_ledger,
        } = options;
        let mut servers = JoinSet::new();
        let (decoys, strangers_logins) = decoys::start(&mut servers).await?;
        let (api, ledger) = (
            TcpListener::bind(listen).await?,
            TcpListener::bind(listen_ledger).await?,
        );
        let (api_at, ledger_at) = (api.local_addr()?, ledger.local_addr()?);
        reach.push(api_at);
        let key =
            key.unwrap_or_else(|| format!("rpa_{}{}", world::random_id(), world::random_id()));
        let mut world = World::new(images, boot, decoys);
        world.own_key_may_delete = own_key_may_delete;
        world.machines = hosts.isolation() != Isolation::None;
        world.add_account(key.clone(), limits, clock.now());
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            clock,
            hosts,
            reach,
            page,
            machines: Mutex::default(),
            keepers: Mutex::default(),
            late: Mutex::default(),
            strangers_logins,
        });
        let router = axum::Router::new()
            .fallback(api::dispatch)
            .with_state(shared.clone());
        servers.spawn(async move { drop(axum::serve(api, router).await) });
        let router = control::router(shared.clone());
        servers.spawn(async move { drop(axum::serve(ledger, router).await) });
        Ok(Self {
            shared,
            key,
            url: format!("http://{api_at}/v2"),
            ledger_url: format!("http://{ledger_at}/_sim/ledger"),
            servers,
        })
    }

    /// The API's base URL, as `RUNPOD_API_URL` takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The account's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where the ledger is read; the switches are beside it (`/_sim/faults`, `/_sim/clock`, `/_sim/stock`).
    pub fn ledger_url(&self) -> &str {
        &self.ledger_url
    }

    /// How pods are separated from this machine.
    pub fn isolation(&self) -> Isolation {
        self.shared.hosts.isolation()
    }

    /// Its time.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Switches a fault on.
    pub fn fault(&self, fault: Fault) {
        self.shared.add_fault(fault);
    }

    /// Switches all faults off, and heals the pods that had one.
    pub fn clear_faults(&self) {
        self.shared.clear_faults();
    }

    /// Switches off what was switched on for this pod or name alone ([`Fault::on`]), and heals the pods that had it.
    pub fn clear_faults_on(&self, pod: &str) {
        self.shared.with_world(|world, _| world.heal_of(pod));
    }

    /// What really happened so far.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger()
    }

    /// Changes the stock of a GPU, by id.
    pub fn stock(&self, gpu: &str, level: Level) {
        self.shared
            .with_world(|world, _| world.stock.0.insert(gpu.to_owned(), level));
    }

    /// Adds a second key to the account, as a rotation does.
    pub fn add_key(&self, key: &str) {
        self.shared
            .with_world(|world, _| world.add_key(key.to_owned()));
    }

    /// Stops accepting a key.
    pub fn revoke(&self, key: &str) {
        self.shared.with_world(|world, _| world.revoke(key));
    }

    /// Opens another account and returns its key: one that sees none of the first one's pods.
    pub fn another_account(&self) -> String {
        let key = format!("rpa_{}{}", world::random_id(), world::random_id());
        self.shared
            .with_world(|world, now| world.add_account(key.clone(), None, now));
        key
    }

    /// The key that a pod finds in its own environment.
    pub fn own_key(&self, pod: &str) -> Option<String> {
        self.shared.with_pod(pod, |pod, _, _| pod.own_key.clone())
    }

    /// Writes a line to a pod's log, as its container would.
    pub fn write(&self, pod: &str, line: &str) {
        self.shared.with_pod(pod, |pod, _, now| {
            pod.log.write(log::Source::Container, line, now)
        });
    }

    /// Ends a pod as RunPod does by itself: at zero balance, or with its machine.
    pub fn vanish(&self, pod: &str) {
        self.shared.vanish(pod);
    }

    /// Whether a port inside a pod can be reached from outside past SSH; `None` where that says nothing.
    pub async fn port_reachable(&self, pod: &str, port: u16) -> Option<bool> {
        self.shared.port_reachable(pod, port).await
    }

    /// Ends every pod and both servers. When this returns, nothing of any pod is left.
    pub async fn stop(mut self) {
        self.servers.shutdown().await;
        let mut late = std::mem::take(&mut *locked(&self.shared.late));
        late.shutdown().await;
        self.shared.with_world(|world, now| world.end_all(now));
        let mut keepers = std::mem::take(&mut *locked(&self.shared.keepers));
        while keepers.join_next().await.is_some() {}
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.with_world(|world, now| world.end_all(now));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn boot(&self) -> Boot {
        self.world().boot
    }

    fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.world)
    }

    fn with_world<T>(&self, change: impl FnOnce(&mut World, Timestamp) -> T) -> T {
        // The time is read under the lock, so that it never runs backwards from one change to the next.
        let mut world = self.world();
        let now = self.now();
        change(&mut world, now)
    }

    fn with_pod<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut pod::Pod, &mut faults::Faults, Timestamp) -> T,
    ) -> Option<T> {
        self.with_world(|world, now| {
            let World { pods, faults, .. } = world;
            pods.get_mut(id).map(|pod| change(pod, faults, now))
        })
    }

    /// Runs a create that nobody may be waiting for.
    fn later(&self, create: impl Future<Output = ()> + Send + 'static) {
        locked(&self.late).spawn(create);
    }

    async fn sleep(&self, until: Option<Timestamp>) {
        match until {
            Some(until) => self.clock.sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    fn create(self: &Arc<Self>, caller: &Caller, request: &Request) -> Result<String, Problem> {
        let id = self.with_world(|world, now| world.create(caller, request, now))?;
        if self.hosts.isolation() != Isolation::None {
            let mut keepers = locked(&self.keepers);
            while keepers.try_join_next().is_some() {}
            keepers.spawn(container::keep(self.clone(), id.clone()));
        }
        Ok(id)
    }

    fn log(&self, id: &str, text: &str) {
        self.with_pod(id, |pod, _, now| {
            pod.log.write(log::Source::System, text, now)
        });
    }

    /// PID 1 has ended: the container is started again, with a new disk, and goes on being billed.
    fn exited(&self, id: &str, how: &str) {
        let restart = self.boot().restart;
        self.with_pod(id, |pod, _, now| {
            pod.log
                .write(log::Source::System, format!("container exited: {how}"), now);
            pod.leave_container();
            pod.timeline.boots = now + restart;
        });
    }

    fn put_off(&self, id: &str, by: Duration) {
        self.with_pod(id, |pod, _, now| pod.timeline.boots = now + by);
    }

    fn add_fault(&self, fault: Fault) {
        self.with_world(|world, now| {
            world.faults.add(fault, now);
            world.touch();
        });
    }

    fn clear_faults(&self) {
        self.with_world(|world, _| world.heal());
    }

    fn ledger(&self) -> Ledger {
        let logins = self.strangers_logins.load(Ordering::Relaxed);
        self.with_world(|world, now| ledger::read(world, logins, now))
    }

    fn vanish(&self, id: &str) {
        self.with_world(|world, now| world.vanish(id, now));
    }

    async fn port_reachable(&self, id: &str, port: u16) -> Option<bool> {
        let machine = locked(&self.machines).get(id).and_then(Weak::upgrade)?;
        machine.port_reachable(port).await
    }

    fn active_faults(&self) -> Vec<Value> {
        self.with_world(|world, _| {
            world
                .faults
                .active()
                .filter_map(|fault| serde_json::to_value(fault).ok())
                .collect()
        })
    }
}
