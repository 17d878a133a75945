//! The client against the stand-in hub: every fault on the way, and what must never be sent.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orthoscope::checkpoint::files;
use orthoscope::demo::standin::{Fault, Gate, Logged, Port, Repository, Standin, StandinSettings, Surprise};
use orthoscope::error::ErrorKind;
use orthoscope::hub::fetch::{self, Repo};
use orthoscope::hub::reach::Reach;
use orthoscope::hub::{self, Client, ClientSettings, Environment, Hub, Meter, Query};
use orthoscope::ids::Revision;
use orthoscope::source::ByteSource;

const CARD: &str = "---\nbase_model: org/base\n---\n# Derivative\n";

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn model(name: &str) -> Repository {
    Repository::new(name)
        .with("README.md", CARD)
        .with("config.json", r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":8}"#)
        .with("model.safetensors", noise(7, 700_000))
}

struct Setting {
    standin: Standin,
    client: Arc<Client>,
    hub: Arc<dyn Hub>,
    environment: Environment,
    folder: tempfile::TempDir,
}

fn setting(repositories: Vec<Repository>, settings: StandinSettings) -> Setting {
    setting_of("hf", repositories, settings, |client| client)
}

fn setting_of(
    prefix: &str,
    repositories: Vec<Repository>,
    settings: StandinSettings,
    adjust: impl FnOnce(ClientSettings) -> ClientSettings,
) -> Setting {
    let token = settings.token.clone();
    let standin = Standin::start(repositories, settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let mut environment = Environment::empty()
        .with("HF_ENDPOINT", standin.hub())
        .with("MODELSCOPE_ENDPOINT", standin.hub())
        .with("HF_HOME", home);
    if let Some(token) = token {
        environment = environment.with("HF_TOKEN", token.clone()).with("MODELSCOPE_API_TOKEN", token);
    }
    let client = Client::new(adjust(ClientSettings {
        cache: folder.path().join("cache"),
        first_wait: Duration::from_millis(5),
        ..ClientSettings::default()
    }))
    .unwrap();
    let hub = hub::named(prefix, &environment).unwrap();
    Setting { standin, client, hub, environment, folder }
}

impl Setting {
    fn open(&self, name: &str) -> orthoscope::error::Result<Repo> {
        let info = fetch::info(&self.client, self.hub.as_ref(), name, None, &Meter::unlimited())?;
        let revision = info.commit.map_or_else(|| self.hub.default_revision(), Revision);
        Repo::open(&self.client, &self.hub, &self.environment, name, &revision, &Meter::unlimited())
    }

    fn weights(&self, name: &str, meter: &Arc<Meter>) -> Arc<dyn ByteSource> {
        let repo = self.open(name).unwrap();
        let file = repo.file("model.safetensors").unwrap().clone();
        repo.source(&file, meter).unwrap()
    }

    fn weights_of(&self, repo: &Repo) -> Arc<dyn ByteSource> {
        repo.source(repo.file("model.safetensors").unwrap(), &Meter::unlimited()).unwrap()
    }

    /// What holds of every request whatever happened.
    fn assert_manners(&self) -> Vec<Logged> {
        let log = self.standin.log();
        for entry in &log {
            assert!(entry.port == Port::Hub || !entry.credentials, "credentials left the hub: {entry:?}");
            assert_eq!(entry.encoding.as_deref(), Some("identity"), "{entry:?}");
            assert!(entry.agent.as_deref().unwrap().starts_with("orthoscope/"), "{entry:?}");
            assert!(!(entry.target.contains("config.json") && entry.target.contains("resolve")), "{entry:?}");
        }
        log
    }
}

#[test]
fn a_listing_is_followed_to_its_end_over_many_pages() {
    let repositories =
        (0..47).map(|i| model(&format!("someone/m{i:02}"))).chain([Repository::new("org/base")]).collect();
    let setting = setting(repositories, StandinSettings { list_page: 10, ..StandinSettings::default() });
    let mut names = Vec::new();
    let query = Query { base: Some("org/base".into()), ..Query::default() };
    fetch::list(&setting.client, setting.hub.as_ref(), &query, &Meter::unlimited(), &mut |page| {
        names.extend(page.into_iter().map(|info| {
            assert_eq!(info.config["model_type"], "llama");
            assert_eq!(info.card["base_model"], "org/base");
            assert!(info.commit.is_some());
            info.name
        }));
        Ok(true)
    })
    .unwrap();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 47);
    assert_eq!(setting.assert_manners().len(), 5);
}

#[test]
fn a_tree_is_followed_over_its_pages_and_read_by_commit() {
    let mut repository = model("someone/many");
    for i in 0..230 {
        repository = repository.with(&format!("shards/part {i:03} é.txt"), "x");
    }
    let setting = setting(vec![repository], StandinSettings { tree_page: 50, ..StandinSettings::default() });
    let repo = setting.open("someone/many").unwrap();
    assert_eq!(repo.files().len(), 233);
    assert!(repo.file("model.safetensors").unwrap().sha256.is_some());
    assert_eq!(repo.small("shards/part 007 é.txt", &Meter::unlimited()).unwrap(), b"x");
    assert!(
        setting
            .standin
            .log()
            .iter()
            .filter(|entry| entry.target.contains("/tree/"))
            .all(|e| !e.target.contains("main"))
    );
}

#[test]
fn every_fault_on_the_way_to_a_range_is_overcome() {
    for fault in [
        Fault::Unavailable,
        Fault::Dropped,
        Fault::Truncated,
        Fault::Slow,
        Fault::WrongRange,
        Fault::IgnoredRange,
        Fault::Compressed,
        Fault::Expired,
        Fault::Short,
        Fault::OtherLength,
        Fault::Unsatisfiable,
    ] {
        let setting = setting(
            vec![model("someone/m")],
            StandinSettings { token: Some("hf_secret".into()), ..StandinSettings::default() },
        );
        let meter = Meter::unlimited();
        let weights = setting.weights("someone/m", &meter);
        setting.standin.inject(fault, "/bridge/", 2);
        assert_eq!(&*weights.read(300_000..300_500).unwrap(), &noise(7, 700_000)[300_000..300_500], "{fault:?}");
        let log = setting.assert_manners();
        // A slow answer is an answer.
        let met = if fault == Fault::Slow { 1 } else { 2 };
        assert_eq!(log.iter().filter(|entry| entry.fault == Some(fault)).count(), met, "{fault:?}");
        assert!(log.iter().any(|entry| entry.credentials), "the hub itself gets the token");
        // The address is looked up again only where it was refused, or led to another file.
        let lookups = log.iter().filter(|entry| entry.target.contains("/resolve/")).count();
        let renewed = [Fault::Expired, Fault::OtherLength, Fault::Unsatisfiable].contains(&fault);
        assert_eq!(lookups, if renewed { 3 } else { 1 }, "{fault:?}");
    }
}

#[test]
fn every_fault_on_the_way_to_an_answer_is_overcome() {
    let faults = [Fault::Unavailable, Fault::Dropped, Fault::Truncated, Fault::Garbage, Fault::Limited, Fault::Short];
    for fault in faults {
        let setting = setting(vec![model("someone/m")], StandinSettings::default());
        setting.standin.inject(fault, "/api/models/someone/m", 1);
        assert_eq!(setting.open("someone/m").unwrap().files().len(), 3, "{fault:?}");
    }
}

#[test]
fn a_range_that_never_works_ends_in_an_error_and_not_in_a_download() {
    let setting = setting(vec![model("someone/m")], StandinSettings::default());
    let meter = Meter::unlimited();
    let weights = setting.weights("someone/m", &meter);
    setting.standin.inject(Fault::IgnoredRange, "/bridge/", 100);
    let error = weights.read(300_000..300_500).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Network);
    assert!(error.doing.contains("ignores ranges"), "{error}");
    assert!(!error.one_line().contains("Signature"), "a signed address is a secret");
    assert!(meter.totals().weight_bytes < 1000, "{:?}", meter.totals());
}

#[test]
fn a_stated_wait_is_kept_and_a_quota_is_never_overrun() {
    let settings = StandinSettings { api_quota: Some(8), window: Duration::from_secs(2), ..StandinSettings::default() };
    let setting = setting(vec![model("someone/m")], settings);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    fetch::info(&setting.client, setting.hub.as_ref(), "someone/m", None, &Meter::unlimited()).unwrap();
                }
            });
        }
    });
    assert!(start.elapsed() >= Duration::from_secs(2), "twelve requests do not fit one window of eight");
    let log = setting.assert_manners();
    assert_eq!(log.len(), 12, "none was refused: {log:?}");
    setting.standin.inject(Fault::Limited, "/api/models", 1);
    let start = Instant::now();
    fetch::info(&setting.client, setting.hub.as_ref(), "someone/m", None, &Meter::unlimited()).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(setting.standin.log().iter().all(|entry| entry.inside_wait.is_none()));
}

#[test]
fn outcomes_are_told_apart() {
    let gated = Repository { gate: Gate::Manual, ..model("someone/gated") };
    let disabled = Repository { disabled: true, ..model("someone/disabled") };
    let surprised = |name: &str, surprise| Repository { surprise: Some(surprise), ..model(name) };
    let setting = setting(
        vec![
            gated,
            disabled,
            surprised("someone/deleted", Surprise::Deleted),
            surprised("someone/moved", Surprise::Moved),
            surprised("someone/closed", Surprise::Gated),
        ],
        StandinSettings::default(),
    );
    let read = |name: &str| {
        let repo = setting.open(name)?;
        let file = repo.file("model.safetensors").unwrap().clone();
        repo.source(&file, &Meter::unlimited())?.read(0..10).map(|_| ())
    };
    assert_eq!(read("someone/missing").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(read("someone/gated").unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(read("someone/disabled").unwrap_err().kind, ErrorKind::Disabled);
    assert_eq!(read("someone/deleted").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(read("someone/moved").unwrap_err().kind, ErrorKind::Moved);
    assert_eq!(read("someone/closed").unwrap_err().kind, ErrorKind::Denied);
    // The tree of a gated repository is public, so its hashes can be compared all the same.
    assert!(setting.open("someone/gated").unwrap().file("model.safetensors").unwrap().sha256.is_some());
}

#[test]
fn a_push_between_tree_and_read_is_noticed() {
    let setting = setting(vec![model("someone/m")], StandinSettings::default());
    let repo = setting.open("someone/m").unwrap();
    setting.standin.push(model("someone/m").with("model.safetensors", noise(8, 700_000)));
    let file = repo.file("model.safetensors").unwrap().clone();
    let error = repo.source(&file, &Meter::unlimited()).unwrap().read(0..10).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Moved);
}

#[test]
fn a_budget_stops_before_the_bytes_and_neighbours_share_a_request() {
    let setting = setting(vec![model("someone/m")], StandinSettings::default());
    let meter = Meter::new("this repository's", Some(250_000), None);
    let weights = setting.weights("someone/m", &meter);
    weights.prefetch(&[200_000..200_100, 200_200..200_300, 600_000..600_100]);
    assert_eq!(setting.standin.log().iter().filter(|entry| entry.port == Port::Delivery).count(), 2);
    assert_eq!(&*weights.read(200_200..200_300).unwrap(), &noise(7, 700_000)[200_200..200_300]);
    assert_eq!(weights.read(0..300_000).unwrap_err().kind, ErrorKind::Budget);
    let counted = meter.totals();
    assert_eq!(counted.weight_bytes, 400, "exactly what was asked for");
}

#[test]
fn a_download_goes_on_where_it_broke_off_and_is_held_to_its_hash() {
    let setting = setting(vec![model("someone/m")], StandinSettings::default());
    let repo = setting.open("someone/m").unwrap();
    let file = repo.file("model.safetensors").unwrap().clone();
    setting.standin.inject(Fault::Truncated, "/bridge/", 2);
    let meter = Meter::unlimited();
    let path = repo.download(&file, &meter).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), noise(7, 700_000));
    assert_eq!(meter.totals().weight_bytes, 700_000, "no byte came twice");
    let ranges: Vec<String> =
        setting.standin.log().into_iter().filter(|e| e.port == Port::Delivery).filter_map(|e| e.range).collect();
    assert_eq!(ranges.len(), 3);
    assert!(ranges[1] != ranges[0] && ranges[2] != ranges[1], "{ranges:?}");
    setting.standin.clear_log();
    assert_eq!(repo.download(&file, &meter).unwrap(), path);
    assert!(setting.standin.log().is_empty(), "what is on disk is not fetched again");
    // A part from before that is not this file's is thrown away, and the file fetched anew.
    let cache = setting.folder.path().join("cache/blobs");
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join(file.sha256.unwrap().hex()).with_extension("partial"), noise(9, 5000)).unwrap();
    assert_eq!(std::fs::read(repo.download(&file, &meter).unwrap()).unwrap(), noise(7, 700_000));
}

#[test]
fn offline_makes_no_request() {
    let setting = setting_of("hf", vec![model("someone/m")], StandinSettings::default(), |client| ClientSettings {
        offline: true,
        ..client
    });
    assert_eq!(setting.open("someone/m").err().unwrap().kind, ErrorKind::Offline);
    let opened = Repo::open(
        &setting.client,
        &setting.hub,
        &setting.environment,
        "someone/m",
        &Revision("main".to_owned()),
        &Meter::unlimited(),
    );
    assert_eq!(opened.err().unwrap().kind, ErrorKind::Offline);
    assert!(setting.standin.log().is_empty());
}

#[test]
fn stopping_ends_a_long_wait_at_once() {
    let setting = setting(
        vec![model("someone/m")],
        StandinSettings { window: Duration::from_secs(600), ..StandinSettings::default() },
    );
    setting.standin.inject(Fault::Limited, "/api", 1_000);
    let stop = setting.client.stop().clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        stop.cancel();
    });
    let start = Instant::now();
    assert_eq!(setting.open("someone/m").err().unwrap().kind, ErrorKind::Interrupted);
    assert!(start.elapsed() < Duration::from_secs(5));
    stopper.join().unwrap();
}

#[test]
fn the_other_hub_works_through_the_same_client() {
    let mut repository = model("owner/name");
    for i in 0..3100 {
        repository = repository.with(&format!("folder{}/file{i:04}.txt", i % 3), "x");
    }
    let settings = StandinSettings { token: Some("ms_secret".into()), ..StandinSettings::default() };
    let setting = setting_of("ms", vec![repository, model("owner/other")], settings, |client| client);
    let mut names = Vec::new();
    let query = Query { author: Some("owner".into()), ..Query::default() };
    fetch::list(&setting.client, setting.hub.as_ref(), &query, &Meter::unlimited(), &mut |page| {
        names.extend(page.into_iter().map(|info| info.name));
        Ok(true)
    })
    .unwrap();
    assert_eq!(names, ["owner/name", "owner/other"]);
    let repo = Repo::open(
        &setting.client,
        &setting.hub,
        &setting.environment,
        "owner/name",
        &Revision("master".to_owned()),
        &Meter::unlimited(),
    )
    .unwrap();
    assert_eq!(repo.files().len(), 3103, "a tree cut off at 3,000 entries is listed folder by folder");
    let file = repo.file("model.safetensors").unwrap().clone();
    let weights = repo.source(&file, &Meter::unlimited()).unwrap();
    assert_eq!(&*weights.read(500_000..500_010).unwrap(), &noise(7, 700_000)[500_000..500_010]);
    assert_eq!(repo.small("README.md", &Meter::unlimited()).unwrap(), CARD.as_bytes());
    assert_eq!(setting.open("owner/missing").err().unwrap().kind, ErrorKind::NotFound);
    setting.assert_manners();
}

#[test]
fn a_directory_tree_is_a_hub_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["org/base", "someone/with space"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("model.safetensors"), noise(3, 5000)).unwrap();
        std::fs::write(folder.path().join(name).join("README.md"), CARD).unwrap();
    }
    let environment = Environment::empty().with("ORTHOSCOPE_LOCAL_HUB", folder.path().to_str().unwrap());
    let hub = hub::named("local", &environment).unwrap();
    let client = Client::new(ClientSettings { offline: true, ..ClientSettings::default() }).unwrap();
    let meter = Meter::unlimited();
    let mut names = Vec::new();
    fetch::list(&client, hub.as_ref(), &Query::default(), &meter, &mut |page| {
        names.extend(page.into_iter().map(|info| (info.name, info.commit.is_some())));
        Ok(true)
    })
    .unwrap();
    assert_eq!(names, [("org/base".to_owned(), true), ("someone/with space".to_owned(), true)]);
    let info = fetch::info(&client, hub.as_ref(), "someone/with space", None, &meter).unwrap();
    assert_eq!(info.name, "someone/with space");
    let repo = Repo::open(&client, &hub, &environment, &info.name, &hub.default_revision(), &meter).unwrap();
    let file = repo.file("model.safetensors").unwrap().clone();
    assert_eq!(&*repo.source(&file, &meter).unwrap().read(100..200).unwrap(), &noise(3, 5000)[100..200]);
    assert_eq!(fetch::info(&client, hub.as_ref(), "no/such", None, &meter).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(meter.totals().requests, 0);
}

#[test]
fn a_directory_tree_shows_repositories_with_weights_of_every_ending() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let either_case = files::endings().flat_map(|ending| [ending.to_owned(), ending.to_ascii_uppercase()]);
    for (number, ending) in either_case.enumerate() {
        let name = format!("org/{number:02}");
        std::fs::create_dir_all(folder.path().join(&name)).unwrap();
        std::fs::write(folder.path().join(&name).join(format!("weights.{ending}")), noise(3, 50)).unwrap();
        expected.push(name);
    }
    std::fs::create_dir_all(folder.path().join("org/none")).unwrap();
    std::fs::write(folder.path().join("org/none/README.md"), CARD).unwrap();
    let environment = Environment::empty().with("ORTHOSCOPE_LOCAL_HUB", folder.path().to_str().unwrap());
    let hub = hub::named("local", &environment).unwrap();
    let client = Client::new(ClientSettings { offline: true, ..ClientSettings::default() }).unwrap();
    let mut names = Vec::new();
    fetch::list(&client, hub.as_ref(), &Query::default(), &Meter::unlimited(), &mut |page| {
        names.extend(page.into_iter().map(|info| info.name));
        Ok(true)
    })
    .unwrap();
    names.sort();
    assert_eq!(names, expected);
}

/// A hub of its own making: `answer` gives the bytes of each answer by the request's number and path, `None` to drip a
/// header line every 20 ms instead. Serves as long as the test runs.
fn raw_hub(answer: impl Fn(usize, &str) -> Option<String> + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (answer, counter) = (Arc::new(answer), asked.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let (answer, counter) = (answer.clone(), counter.clone());
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(count) => request.extend_from_slice(&buffer[..count]),
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let number = counter.fetch_add(1, Ordering::SeqCst);
                match answer(number, &path) {
                    Some(bytes) => drop(stream.write_all(bytes.as_bytes())),
                    None => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                        for line in 0..1000 {
                            std::thread::sleep(Duration::from_millis(20));
                            if stream.write_all(format!("x-{line}: y\r\n").as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    (address, asked)
}

fn json_answer(headers: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"))
}

fn client_of(adjust: impl FnOnce(ClientSettings) -> ClientSettings) -> Arc<Client> {
    let settings = ClientSettings { first_wait: Duration::from_millis(5), ..ClientSettings::default() };
    Client::new(adjust(settings)).unwrap()
}

fn hub_at(address: &str) -> Arc<dyn Hub> {
    hub::named("hf", &Environment::empty().with("HF_ENDPOINT", address)).unwrap()
}

fn list_all(client: &Client, address: &str) -> orthoscope::error::Result<usize> {
    let mut count = 0;
    fetch::list(client, hub_at(address).as_ref(), &Query::default(), &Meter::unlimited(), &mut |page| {
        count += page.len();
        Ok(true)
    })?;
    Ok(count)
}

#[test]
fn a_wrong_answer_is_asked_for_again() {
    for fault in [Fault::Short, Fault::OtherBytes] {
        let setting = setting(vec![model("someone/m")], StandinSettings::default());
        let repo = setting.open("someone/m").unwrap();
        setting.standin.inject(fault, "/resolve-cache/", 1);
        assert_eq!(repo.small("README.md", &Meter::unlimited()).unwrap(), CARD.as_bytes(), "{fault:?}");
        assert_eq!(setting.standin.log().iter().filter(|entry| entry.fault == Some(fault)).count(), 1);
    }
    for fault in [Fault::Short, Fault::OtherBytes, Fault::OtherLength, Fault::Unsatisfiable] {
        let setting = setting(vec![model("someone/m")], StandinSettings::default());
        let repo = setting.open("someone/m").unwrap();
        let file = repo.file("model.safetensors").unwrap().clone();
        setting.standin.inject(fault, "/bridge/", 1);
        let path = repo.download(&file, &Meter::unlimited()).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), noise(7, 700_000), "{fault:?}");
    }
}

#[test]
fn what_stays_wrong_is_no_moved_repository() {
    let opened = || {
        let setting = setting(vec![model("someone/m")], StandinSettings::default());
        let repo = setting.open("someone/m").unwrap();
        (setting, repo)
    };
    let (setting, repo) = opened();
    setting.standin.inject(Fault::Short, "/resolve-cache/", 1000);
    let error = repo.small("README.md", &Meter::unlimited()).unwrap_err();
    let said = format!("{} bytes where {} are listed", CARD.len() / 2, CARD.len());
    assert!(error.kind == ErrorKind::Network && error.doing.contains(&said), "{error}");
    for fault in [Fault::Short, Fault::OtherLength, Fault::Unsatisfiable] {
        let (setting, repo) = opened();
        setting.standin.inject(fault, "/bridge/", 1000);
        let file = repo.file("model.safetensors").unwrap().clone();
        let weights = repo.source(&file, &Meter::unlimited()).unwrap();
        assert_eq!(weights.read(0..10).unwrap_err().kind, ErrorKind::Network, "{fault:?}");
        if fault != Fault::Short {
            assert_eq!(repo.download(&file, &Meter::unlimited()).unwrap_err().kind, ErrorKind::Network, "{fault:?}");
        }
    }
    // Whole content that is another one each time is not what was listed.
    let (setting, repo) = opened();
    setting.standin.inject(Fault::OtherBytes, "", 1000);
    assert_eq!(repo.small("README.md", &Meter::unlimited()).unwrap_err().kind, ErrorKind::Moved);
}

#[test]
fn a_body_or_a_header_that_drips_is_given_up() {
    let hasty = |client: ClientSettings| ClientSettings {
        request_time: Duration::from_millis(300),
        slowest: 10_000_000,
        tries: 2,
        ..client
    };
    let setting = setting_of("hf", vec![model("someone/m")], StandinSettings::default(), hasty);
    let repo = setting.open("someone/m").unwrap();
    setting.standin.inject(Fault::Drip, "", 1000);
    for error in [
        setting.open("someone/m").err().unwrap(),
        setting.weights_of(&repo).read(0..50_000).unwrap_err(),
        repo.download(repo.file("model.safetensors").unwrap(), &Meter::unlimited()).unwrap_err(),
    ] {
        assert!(error.kind == ErrorKind::Network && error.doing.contains("too slowly"), "{error}");
    }
    let (address, asked) = raw_hub(|_, _| None);
    let error = list_all(&client_of(hasty), &address).unwrap_err();
    assert!(error.kind == ErrorKind::Network && error.doing.contains("no answer in the time"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn one_repository_has_its_time_and_no_more() {
    let setting = setting_of("hf", vec![model("someone/m")], StandinSettings::default(), |client| ClientSettings {
        repository_time: Duration::from_millis(300),
        slowest: 10_000_000,
        ..client
    });
    let repo = setting.open("someone/m").unwrap();
    setting.standin.inject(Fault::Drip, "/bridge/", 1000);
    let meter = setting.client.meter("this repository's", None, None);
    let file = repo.file("model.safetensors").unwrap().clone();
    let weights = repo.source(&file, &meter).unwrap();
    let error = weights.read(0..50_000).unwrap_err();
    assert!(error.kind == ErrorKind::Budget && error.doing.contains("this repository's time is over"), "{error}");
    // Nor is another request begun.
    setting.standin.clear_log();
    assert_eq!(repo.source(&file, &meter).unwrap().read(0..10).unwrap_err().kind, ErrorKind::Budget);
    assert!(setting.standin.log().is_empty());
}

#[test]
fn listings_that_never_end_are_left() {
    let client = client_of(|client| client);
    let next = |cursor: usize| format!("link: </api/models?cursor={cursor}>; rel=\"next\"\r\n");
    let page = "[{\"id\":\"a/b\"}]";
    for body in ["[]", page] {
        let (address, asked) = raw_hub(move |number, _| json_answer(&next(number), body));
        let error = list_all(&client, &address).unwrap_err();
        assert!(error.doing.contains("nothing new"), "{error}");
        assert!(asked.load(Ordering::SeqCst) <= 53, "{asked:?}");
    }
    let (address, asked) = raw_hub(move |number, _| {
        let other = format!("[{{\"id\":\"a/{number}\"}}]");
        json_answer(&next(number % 2), &other)
    });
    let error = list_all(&client, &address).unwrap_err();
    assert!(error.doing.contains("in a circle"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    // Some empty pages among others are honest.
    let (address, _) = raw_hub(move |number, _| match number {
        0..30 => json_answer(&next(number), "[]"),
        _ => json_answer("", page),
    });
    assert_eq!(list_all(&client, &address).unwrap(), 1);
}

#[test]
fn waits_that_a_hub_asks_for_end_with_patience() {
    let patient = |client| ClientSettings { patience: Duration::from_secs(5), ..client };
    for headers in ["ratelimit: \"api\";r=0;t=86400\r\n", "ratelimit: \"api\";r=0;t=18446744073709551615\r\n"] {
        let (address, asked) = raw_hub(move |_, _| json_answer(headers, "[]"));
        let client = client_of(patient);
        assert_eq!(list_all(&client, &address).unwrap(), 0);
        let error = list_all(&client, &address).unwrap_err();
        assert!(error.kind == ErrorKind::Network && error.doing.contains("asked to wait "), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
    let refuse = |wait: &str| {
        format!("HTTP/1.1 429 No\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: {wait}\r\n\r\n")
    };
    let (address, asked) = raw_hub(move |_, _| Some(refuse("86400")));
    assert_eq!(list_all(&client_of(patient), &address).unwrap_err().kind, ErrorKind::Network);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // A wait of nothing, stated for ever.
    let (address, asked) = raw_hub(move |_, _| Some(refuse("0")));
    assert_eq!(list_all(&client_of(patient), &address).unwrap_err().kind, ErrorKind::Network);
    assert!(asked.load(Ordering::SeqCst) < 50);
}

#[test]
fn redirects_lead_no_further_than_the_hub_is_itself() {
    let read = |delivery_at: Option<&str>, reach: Option<Reach>| {
        let settings = StandinSettings { delivery_at: delivery_at.map(str::to_owned), ..StandinSettings::default() };
        let setting =
            setting_of("hf", vec![model("someone/m")], settings, |client| ClientSettings { reach, tries: 2, ..client });
        let file = setting.open("someone/m").unwrap().file("model.safetensors").unwrap().clone();
        let repo = setting.open("someone/m").unwrap();
        let bytes = repo.source(&file, &Meter::unlimited()).unwrap().read(0..10).map(|_| ());
        (bytes, setting.standin.log().iter().filter(|entry| entry.port == Port::Delivery).count())
    };
    // A hub on loopback may send to loopback, as every test here.
    assert!(matches!(read(None, None), (Ok(()), 1)));
    // One on the internet may not, and nothing is sent there.
    let (refused, sent) = read(None, Some(Reach::Public));
    let error = refused.unwrap_err();
    assert!(error.kind == ErrorKind::Malformed && error.doing.contains("loopback"), "{error}");
    assert_eq!(sent, 0);
    // Nor by a name, which is resolved once, for the connection.
    let (refused, sent) = read(Some("http://localhost:9"), Some(Reach::Public));
    let error = refused.unwrap_err();
    assert!(error.kind == ErrorKind::Malformed && error.doing.contains("localhost has a loopback"), "{error}");
    assert_eq!(sent, 0);
    for inner in ["http://169.254.169.254", "http://[fe80::1]", "http://0.0.0.0:9", "http://[::ffff:169.254.169.254]"] {
        let error = read(Some(inner), None).0.unwrap_err();
        assert!(error.kind == ErrorKind::Malformed && error.doing.contains("link-local"), "{inner}: {error}");
    }
}

#[test]
fn a_download_without_room_is_not_begun() {
    let setting = setting_of("hf", vec![model("someone/m")], StandinSettings::default(), |client| ClientSettings {
        reserve: u64::MAX / 2,
        ..client
    });
    let repo = setting.open("someone/m").unwrap();
    let file = repo.file("model.safetensors").unwrap().clone();
    let whole = repo.download(&file, &Meter::unlimited()).unwrap_err();
    let parts = repo.partial(&file, std::slice::from_ref(&(0..10)), &Meter::unlimited()).unwrap_err();
    for error in [whole, parts] {
        assert!(error.kind == ErrorKind::Io && error.doing.contains("no room for"), "{error}");
    }
    assert!(setting.standin.log().iter().all(|entry| entry.port == Port::Hub));
}

#[test]
#[cfg(target_os = "linux")]
fn a_download_that_fills_the_disk_leaves_no_part() {
    let setting = setting(vec![model("someone/m")], StandinSettings::default());
    let repo = setting.open("someone/m").unwrap();
    let file = repo.file("model.safetensors").unwrap().clone();
    let blobs = setting.folder.path().join("cache/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(file.sha256.unwrap().hex()).with_extension("partial");
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    assert_eq!(repo.download(&file, &Meter::unlimited()).unwrap_err().kind, ErrorKind::Io);
    assert!(partial.symlink_metadata().is_err(), "what fills the disk is removed");
    assert_eq!(std::fs::read(repo.download(&file, &Meter::unlimited()).unwrap()).unwrap(), noise(7, 700_000));
}
