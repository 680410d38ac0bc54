//! Inputs that are at a URI, fetched beside everything else: for requests to be answered, and for results of others to be judged.
//!
//! Whoever needs one asks ([`Inputs::look`]) and goes on with other work; it is tried, with pauses that grow, as long as somebody asks. A few at once,
//! of each requester fewer, those that failed before last: servers that hang hold up nobody but those who named them. What is here is in the store,
//! so a kill loses at most a download.

use super::{OperatorSettings, RelayerError, Shared, worker};
use crate::{
    chain::Head,
    complaints::Complaints,
    crash,
    fetch::{FetchError, FetchSettings, Fetcher, Wanted, shown},
    ops::metrics::{INPUT_FETCH_DURATION, INPUT_FETCHES},
    store::{ByUri, RequestRow, Store, StoreError},
};
use alloy::primitives::{Address, Bytes, keccak256};
use candor_sdk::{ids::RequestId, request};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
    time::Instant,
};
use tracing::{debug, info, warn};

/// Requests looked at in one round, at most.
const MOST_ROWS: u32 = 500;

/// The pause after the first try that failed; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long something is still wanted that nobody asks for any more.
const WANTED_FOR: Duration = Duration::from_secs(300);

/// How an input stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is here.
    Here(Bytes),
    /// It is not, so far.
    Coming,
    /// It was tried in vain, and is tried again.
    Missing(String),
    /// There is no sense in trying.
    Never(String),
}

/// The inputs of one chain.
#[derive(Debug)]
pub(crate) struct Inputs {
    store: Store,
    fetcher: Fetcher,
    settings: FetchSettings,
    /// By what and where: whoever names the same input at another place can't get in the way.
    wanted: Mutex<HashMap<Wanted, Entry>>,
    news: Notify,
    /// Results that can't be judged for want of their inputs, and why.
    unjudged: Mutex<BTreeMap<u64, String>>,
}

/// An input that somebody wants.
#[derive(Debug)]
struct Entry {
    requester: Address,
    asked: Instant,
    flying: bool,
    tries: u32,
    /// Not before then.
    next: Instant,
    problem: Option<String>,
}

/// One try that ended.
type Landed = (Wanted, Duration, Result<Bytes, FetchError>);

impl Inputs {
    pub(super) fn new(store: Store, settings: FetchSettings) -> Result<Self, FetchError> {
        let fetcher = Fetcher::new(&settings)?;
        if settings.private_addresses {
            warn!(
                "inputs.private_addresses is on: whoever makes a request chooses what this machine asks in its own network; for local chains and tests only"
            );
        }
        let (wanted, unjudged) = (Mutex::default(), Mutex::default());
        Ok(Self { store, fetcher, settings, wanted, news: Notify::new(), unjudged })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Wanted, Entry>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The input of a request: it is here, or is being fetched from now on, as long as somebody asks again.
    pub(crate) async fn look(&self, id: RequestId, requester: Address, wanted: &Wanted) -> Result<Look, StoreError> {
        if let Some(input) = self.store.input(wanted.hash).await? {
            return Ok(Look::Here(input));
        }
        // One's own requests keep theirs for ever.
        if let Some(row) = self.store.request(id).await?.filter(|row| keccak256(&row.input) == wanted.hash) {
            return Ok(Look::Here(row.input));
        }
        if let Err(error) = self.fetcher.check(wanted) {
            return Ok(Look::Never(format!("{}: {error}", shown(&wanted.uri))));
        }
        self.want(requester, wanted);
        let entries = self.entries();
        let problem = entries.get(wanted).and_then(|entry| entry.problem.clone());
        Ok(problem.map_or(Look::Coming, Look::Missing))
    }

    fn want(&self, requester: Address, wanted: &Wanted) {
        let now = Instant::now();
        let mut entries = self.entries();
        let entry = entries.entry(wanted.clone()).or_insert_with(|| {
            self.news.notify_one();
            Entry { requester, asked: now, flying: false, tries: 0, next: now, problem: None }
        });
        entry.asked = now;
    }

    /// New requests may have come.
    pub(super) fn wake(&self) {
        self.news.notify_one();
    }

    /// Notes results that can't be judged because their inputs are not to be had, or that nothing stands in the way any more.
    pub(crate) fn set_unjudged(&self, results: BTreeMap<u64, String>) {
        *self.unjudged.lock().unwrap_or_else(PoisonError::into_inner) = results;
    }

    /// Results that can't be judged for want of their inputs, and why.
    pub(crate) fn unjudged(&self) -> BTreeMap<u64, String> {
        self.unjudged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to fetch now, earliest first among those that have failed least; marked as under way.
    fn due(&self) -> Vec<Wanted> {
        let now = Instant::now();
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.flying || now.duration_since(entry.asked) < WANTED_FOR);
        let mut free = self.settings.at_once.saturating_sub(entries.values().filter(|entry| entry.flying).count());
        let each = self.settings.at_once.div_ceil(4);
        let mut of_each: HashMap<Address, usize> = HashMap::new();
        for entry in entries.values().filter(|entry| entry.flying) {
            *of_each.entry(entry.requester).or_default() += 1;
        }
        let mut due: Vec<_> = entries.iter_mut().filter(|(_, entry)| !entry.flying && entry.next <= now).collect();
        due.sort_by_key(|(_, entry)| (entry.tries, entry.next));
        let mut chosen = Vec::new();
        for (wanted, entry) in due {
            let under_way = of_each.entry(entry.requester).or_default();
            if free > 0 && *under_way < each {
                (free, *under_way, entry.flying) = (free - 1, *under_way + 1, true);
                chosen.push(wanted.clone());
            }
        }
        chosen
    }

    /// A try has ended: what is to be said of it if it failed.
    fn landed(&self, wanted: &Wanted, outcome: Result<(), &FetchError>) -> Option<String> {
        let mut entries = self.entries();
        let Err(error) = outcome else {
            // Wherever else it was said to be: it is here.
            entries.retain(|other, _| other.hash != wanted.hash);
            return None;
        };
        let entry = entries.get_mut(wanted)?;
        let place = shown(&wanted.uri);
        let pause = FIRST_PAUSE.saturating_mul(1 << entry.tries.min(10)).min(LONGEST_PAUSE);
        (entry.flying, entry.tries, entry.next) = (false, entry.tries + 1, Instant::now() + pause);
        let problem = format!("{place}: {error}");
        if entry.tries == 1 {
            info!(%place, %error, "an input can't be had; trying again");
        } else {
            debug!(%place, %error, tries = entry.tries, "an input still can't be had");
        }
        entry.problem = Some(problem.clone());
        Some(problem)
    }
}

/// Tries that are under way.
#[derive(Default)]
struct Flights {
    set: JoinSet<Landed>,
    names: HashMap<Id, Wanted>,
}

impl Flights {
    /// The next that ends. If it panicked it has failed like any other, and is not under way for ever.
    async fn next(&mut self) -> Landed {
        loop {
            match self.set.join_next_with_id().await {
                Some(Ok((id, landed))) => {
                    self.names.remove(&id);
                    return landed;
                }
                Some(Err(error)) => {
                    let problem = FetchError::Network("fetching it panicked; this is a bug in Candor".into());
                    if let Some(wanted) = self.names.remove(&error.id()) {
                        return (wanted, Duration::ZERO, Err(problem));
                    }
                }
                None => std::future::pending().await,
            }
        }
    }
}

pub(super) async fn run(shared: Arc<Shared>, operator: Option<Arc<OperatorSettings>>) -> Result<(), RelayerError> {
    let mut flights = Flights::default();
    let mut complaints = Complaints::default();
    let mut landed = None;
    while !shared.stop.is_cancelled() {
        shared.round("inputs");
        match round(&shared, operator.as_deref(), &mut flights, landed.take()).await {
            Ok(()) => {}
            Err(error) if error.is_fatal() => return Err(error),
            Err(error) => {
                shared.note("inputs", &error);
                if complaints.is_news(&error.to_string()) {
                    warn!(%error, "inputs wait");
                }
            }
        }
        tokio::select! {
            ended = flights.next() => landed = Some(ended),
            () = shared.inputs.news.notified() => {}
            () = tokio::time::sleep(shared.poll_interval) => {}
            () = shared.stop.cancelled() => {}
        }
    }
    Ok(())
}

async fn round(
    shared: &Shared,
    operator: Option<&OperatorSettings>,
    flights: &mut Flights,
    ended: Option<Landed>,
) -> Result<(), RelayerError> {
    let inputs = &shared.inputs;
    if let Some((wanted, took, outcome)) = ended {
        let label = if outcome.is_ok() { "fetched" } else { "failed" };
        metrics::counter!(INPUT_FETCHES, "outcome" => label).increment(1);
        metrics::histogram!(INPUT_FETCH_DURATION).record(took);
        match outcome {
            Ok(input) => keep(shared, &wanted, &input, took).await?,
            Err(error) => {
                if let Some(problem) = inputs.landed(&wanted, Err(&error)) {
                    shared.store.fetch_failed(wanted.hash, &wanted.uri, &problem).await?;
                }
            }
        }
    }
    // One of those that share a store fetches for all.
    if let Some(operator) = operator.filter(|_| *shared.leads.borrow()) {
        enlist(shared, operator).await?;
    }
    for wanted in inputs.due() {
        let fetcher = inputs.fetcher.clone();
        let asked = wanted.clone();
        let flight = flights.set.spawn(async move {
            let started = Instant::now();
            let outcome = fetcher.fetch(&asked).await;
            (asked, started.elapsed(), outcome)
        });
        flights.names.insert(flight.id(), wanted);
    }
    Ok(())
}

async fn keep(shared: &Shared, wanted: &Wanted, input: &Bytes, took: Duration) -> Result<(), RelayerError> {
    crash::point("input-fetched");
    let kept = shared.store.keep_input(wanted.hash, input, shared.inputs.settings.kept_bytes).await;
    // Whether or not it could be stored: it is not under way any more.
    shared.inputs.landed(wanted, Ok(()));
    let requests = kept?;
    crash::point("input-stored");
    info!(hash = %wanted.hash, bytes = input.len(), ?took, requests, "an input was fetched");
    if requests > 0 {
        shared.work.notify_one();
    }
    Ok(())
}

/// Has the inputs fetched of the requests that this operator may answer now. What is not worth an answer is not worth a download.
async fn enlist(shared: &Shared, operator: &OperatorSettings) -> Result<(), RelayerError> {
    let head = *shared.head.borrow();
    let rows = shared.store.awaiting_input(operator.account.address(), head.timestamp, MOST_ROWS).await?;
    for row in rows {
        let Some(by_uri) = &row.by_uri else { continue };
        // Another worker on the same store may serve what this one does not.
        let elsewhere = shared.store.location().is_shared() && !operator.models.contains_key(&row.request.model);
        let refused = if elsewhere { None } else { refuse(shared, &row, by_uri, operator, head) };
        if let Some(reason) = refused {
            worker::drop_request(shared, &row, &reason).await?;
            continue;
        }
        if !shared.at_a_loss && worker::loses_money(&row.request, head) {
            continue;
        }
        let Some(uri) = place(shared, &row, by_uri).await? else { continue };
        let wanted = Wanted { hash: row.request.input_hash, size: uri.1, uri: uri.0 };
        match shared.inputs.look(row.id(), row.request.requester, &wanted).await? {
            // Fetched for another request.
            Look::Here(input) => {
                let bound = shared.inputs.settings.kept_bytes;
                shared.store.keep_input(wanted.hash, &input, bound).await?;
                shared.work.notify_one();
            }
            Look::Coming => {}
            Look::Never(problem) => {
                let reason = format!("the input can't be had: {problem}");
                worker::drop_request(shared, &row, &reason).await?;
            }
            Look::Missing(_) => {}
        }
    }
    Ok(())
}

/// Why a request is not worth fetching its input for.
fn refuse(
    shared: &Shared,
    row: &RequestRow,
    by_uri: &ByUri,
    operator: &OperatorSettings,
    head: Head,
) -> Option<String> {
    let limits = operator.models.get(&row.request.model).and_then(|served| served.model.retrace());
    let most = limits.map(|retrace| retrace.model().limits.max_input_bytes);
    if by_uri.uri.is_some()
        && let Some(most) = most.filter(|most| by_uri.size > *most)
    {
        return Some(format!("an input of {} bytes, the model takes at most {most}", by_uri.size));
    }
    worker::refuse(shared, row, operator, head)
}

/// Where the input is. For a request that was opened again before this relayer began to read, the chain is asked.
async fn place(shared: &Shared, row: &RequestRow, by_uri: &ByUri) -> Result<Option<(String, u32)>, RelayerError> {
    if let Some(uri) = &by_uri.uri {
        return Ok(Some((uri.clone(), by_uri.size)));
    }
    let announced = match shared.rpc.client().requested(row.id(), 0).await {
        Ok(announced) => announced,
        // Asked again in the next round; the others go on.
        Err(error) => {
            debug!(request = %row.id(), %error, "where its input is was not to be found out");
            return Ok(None);
        }
    };
    match announced.map(|announced| announced.input) {
        Some(request::Input::Uri { uri, size }) => {
            shared.store.input_is_at(&row.request, &uri, size).await?;
            Ok(Some((uri, size)))
        }
        Some(request::Input::Bytes(input)) if keccak256(&input) == row.request.input_hash => {
            shared.store.keep_input(row.request.input_hash, &input, shared.inputs.settings.kept_bytes).await?;
            Ok(None)
        }
        _ => {
            worker::drop_request(shared, row, "nobody says where its input is").await?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::B256;

    async fn inputs(at_once: usize) -> (Inputs, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("candor.db"), 1, Address::ZERO, 0).await.unwrap();
        (Inputs::new(store, FetchSettings { at_once, ..FetchSettings::default() }).unwrap(), folder)
    }

    fn wanted(number: u8) -> Wanted {
        Wanted { hash: B256::repeat_byte(number), size: 1, uri: format!("https://host/{number}") }
    }

    #[tokio::test]
    async fn a_requester_with_servers_that_hang_holds_up_only_itself() {
        let (inputs, _folder) = inputs(8).await;
        let (flood, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        (0..100).for_each(|number| inputs.want(flood, &wanted(number)));
        assert_eq!(inputs.due().len(), 2, "a fourth of what may be under way");
        assert_eq!(inputs.due(), [], "and no more while they are");
        inputs.want(other, &wanted(200));
        assert_eq!(inputs.due(), [wanted(200)]);
    }

    #[tokio::test]
    async fn what_failed_comes_after_what_is_new_and_after_a_pause() {
        let (inputs, _folder) = inputs(1).await;
        let requester = Address::repeat_byte(1);
        inputs.want(requester, &wanted(1));
        let first = inputs.due();
        assert_eq!(first, [wanted(1)]);
        inputs.want(requester, &wanted(2));
        assert_eq!(inputs.due(), [], "one at a time");
        let error = FetchError::Network("gone".into());
        assert_eq!(inputs.landed(&first[0], Err(&error)).unwrap(), "https://host/...: gone");
        inputs.entries().get_mut(&first[0]).unwrap().next = Instant::now();
        assert_eq!(inputs.due(), [wanted(2)], "the new one first");
        inputs.landed(&wanted(2), Ok(()));
        assert_eq!(inputs.due(), [wanted(1)]);
        // Pauses grow to a bound.
        for tries in 2..40 {
            let before = Instant::now();
            inputs.landed(&wanted(1), Err(&error));
            let pause = inputs.entries()[&wanted(1)].next - before;
            assert!(pause <= LONGEST_PAUSE + Duration::from_secs(1) && pause >= FIRST_PAUSE, "{tries}: {pause:?}");
        }
        // The same bytes may be somewhere else; once they are here nobody looks anywhere.
        let elsewhere = Wanted { uri: "https://other/1".into(), ..wanted(1) };
        inputs.want(requester, &elsewhere);
        assert_eq!(inputs.due(), std::slice::from_ref(&elsewhere));
        inputs.landed(&elsewhere, Ok(()));
        assert!(inputs.entries().is_empty());
    }

    #[tokio::test]
    async fn what_has_no_sense_is_not_tried() {
        let (inputs, _folder) = inputs(8).await;
        for (uri, size) in [
            ("gopher://host/x", 1),
            ("https://127.0.0.1/x", 1),
            ("https://host/x", u32::MAX),
            ("ipfs://bafybeigdyrzt5", 1),
        ] {
            let wanted = Wanted { hash: B256::repeat_byte(1), size, uri: uri.into() };
            let look = inputs.look(RequestId(1), Address::ZERO, &wanted).await.unwrap();
            assert!(matches!(look, Look::Never(_)), "{uri}: {look:?}");
        }
        assert_eq!(inputs.due(), []);
    }
}
