//! The server as a visitor meets it: over a real socket on loopback.

use std::sync::Arc;

use reqwest::redirect::Policy;
use serde_json::{Value, json};

use super::*;
use crate::examination::Examination;
use crate::index::triage::Listing;
use crate::report::sample;

const TOKEN: &str = "a token of some length";

/// A server over an index with the made-up examinations, and a visitor to it.
struct Served {
    address: SocketAddr,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
    index: PathBuf,
}

fn noon() -> Timestamp {
    Timestamp::from_second(1_770_000_000).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn serve(token: Option<&str>) -> Served {
    serve_these(sample::everything().examinations, token).await
}

async fn serve_these(examinations: Vec<Examination>, token: Option<&str>) -> Served {
    let folder = tempfile::tempdir().expect("a folder");
    let index = folder.path().join("index.db");
    let mut open = Index::open(&index).expect("opens");
    for examination in &examinations {
        open.record(examination, noon()).expect("records");
    }
    let listing = Listing { downloads: Some(1234), family: Some("llama".into()), ..Listing::default() };
    open.record_listing("hf:example/tiny-edited", &listing, noon()).expect("records");
    drop(open);
    let settings = ServeSettings {
        index: index.clone(),
        catalogue: Catalogue::builtin().expect("parses"),
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: token.map(str::to_owned),
        secure: false,
        clock: noon,
    };
    let (address, _, _) = start(settings, Limits::default()).await;
    let client = reqwest::Client::builder().redirect(Policy::none()).build().expect("client");
    Served { address, client, _folder: folder, index }
}

/// A running server: where it listens, how to send it a signal, and its end.
async fn start(
    settings: ServeSettings,
    limits: Limits,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedSender<()>, tokio::task::JoinHandle<()>) {
    let app = Arc::new(App::new(settings).expect("starts"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let (signal, heard) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(listen::serve(listener, router(app, limits.request), limits, heard));
    (address, signal, running)
}

impl Served {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(self.url(path)).send().await.expect("answers");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    async fn first_id(&self) -> String {
        let page = self.json("/api/v1/examinations?text=tiny-edited").await;
        page["items"][0]["id"].as_str().expect("an id").to_owned()
    }
}

/// The hidden field of the first form with one.
fn form_token(page: &str) -> String {
    let rest = page.split("name=\"form_token\" value=\"").nth(1).expect("a form");
    rest.split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_page_answers_and_carries_its_policy() {
    let served = serve(None).await;
    let id = served.first_id().await;
    let pages = [
        "/".to_owned(),
        "/queue".to_owned(),
        "/queue?outcome=orthogonalized&severity=high&sort=downloads&downloads=&since=2020-01-01&until=&text=tin"
            .to_owned(),
        format!("/examination/{id}"),
        format!("/examination/{}", &id[..10]),
        "/repository?source=hf:example/tiny-edited".to_owned(),
        "/tree".to_owned(),
        "/tree?base=hf:example/tiny-base".to_owned(),
        "/prevalence?sensitivity=95&false_positives=1".to_owned(),
        "/decisions".to_owned(),
        "/style.css".to_owned(),
    ];
    for page in pages {
        let answer = served.client.get(served.url(&page)).send().await.expect("answers");
        assert_eq!(answer.status(), 200, "{page}");
        let policy = answer.headers().get("content-security-policy").and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{page}: {policy}");
        let text = answer.text().await.expect("text");
        for forbidden in ["<script", "<img", " style=\"", "javascript:"] {
            assert!(!text.contains(forbidden), "{page}: {forbidden}");
        }
    }
    for (page, status) in
        [("/examination/zz", 404), ("/examination/ffff", 404), ("/nowhere", 404), ("/queue?severity=loud", 400)]
    {
        assert_eq!(served.get(page).await.0, status, "{page}");
    }
}

#[tokio::test]
async fn hostile_names_are_text_everywhere() {
    let served = serve(None).await;
    let (_, queue) = served.get("/queue?text=script").await;
    assert!(queue.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{queue}");
    let hostile = served.json("/api/v1/examinations?text=script").await;
    let id = hostile["items"][0]["id"].as_str().expect("an id");
    let (_, dossier) = served.get(&format!("/examination/{id}")).await;
    assert!(!dossier.contains("<script") && !dossier.contains('\u{202e}') && !dossier.contains('\u{1b}'));
    let (_, asked) = served.get("/repository?source=%3Cscript%3Ealert(1)%3C/script%3E").await;
    assert!(!asked.contains("<script"));
}

#[tokio::test]
async fn a_decision_is_recorded_once_shown_and_never_taken_from_elsewhere() {
    let served = serve(None).await;
    let id = served.first_id().await;
    let (_, page) = served.get(&format!("/examination/{id}")).await;
    let address = served.url(&format!("/examination/{id}/decide"));
    let fields = |token: &str| {
        [
            ("form_token", token.to_owned()),
            ("who", "A. Moderator".to_owned()),
            ("decision", "confirmed".to_owned()),
            ("note", "=1+1 <b>declared on the card</b>".to_owned()),
        ]
    };
    let wrong = served.client.post(&address).form(&fields("0")).send().await.expect("answers");
    assert_eq!(wrong.status(), 403);
    let elsewhere =
        served.client.post(&address).header("origin", "http://evil.example").form(&fields(&form_token(&page)));
    assert_eq!(elsewhere.send().await.expect("answers").status(), 403);
    let done = served.client.post(&address).form(&fields(&form_token(&page))).send().await.expect("answers");
    assert_eq!(done.status(), 303);
    let next = done.headers()["location"].to_str().expect("text").to_owned();
    let (_, page) = served.get(&format!("/examination/{id}")).await;
    assert!(page.contains("A. Moderator") && page.contains("&lt;b&gt;declared"));
    // On to the next, which says what was recorded and by whom.
    assert!(next.starts_with("/examination/") && next.ends_with(&format!("?after={id}")), "{next}");
    let (status, page) = served.get(&next).await;
    assert!(status == 200 && page.contains("Recorded of") && page.contains("value=\"A. Moderator\""), "{page}");
    let (_, trail) = served.get("/decisions").await;
    assert!(trail.contains("A. Moderator") && trail.contains("The audit trail is whole"));
    let open = served.json("/api/v1/examinations?decision=open&text=tiny-edited").await;
    assert_eq!(open["items"].as_array().map(Vec::len), Some(0));

    let second = served.client.post(served.url(&format!("/api/v1/examinations/{id}/decisions")));
    let second = second.json(&json!({ "decision": "appealed", "who": "publisher" })).send().await.expect("answers");
    assert_eq!(second.status(), 201);
    let all = served.json(&format!("/api/v1/examinations/{id}/decisions")).await;
    assert_eq!(all.as_array().map(Vec::len), Some(2));

    // Neither by this program nor by hand: the tables refuse, and what gets past them shows.
    let mut index = Index::open(&served.index).expect("opens");
    assert!(index.connection_mut().execute("DELETE FROM decision", []).is_err());
    assert!(index.connection_mut().execute("UPDATE decision SET who = 'nobody'", []).is_err());
    assert_eq!(index.broken_decisions().expect("reads"), Vec::<i64>::new());
    index
        .connection_mut()
        .execute_batch("DROP TRIGGER decision_unchanging; UPDATE decision SET note = 'other' WHERE key = 1;")
        .expect("by force");
    assert_eq!(index.broken_decisions().expect("reads"), [1]);
}

#[tokio::test]
async fn a_decision_is_chosen_and_has_a_reason() {
    let served = serve(None).await;
    let id = served.first_id().await;
    let (_, page) = served.get(&format!("/examination/{id}")).await;
    let form = page.split("id=\"decide\"").nth(1).expect("a form");
    assert!(!form.contains("checked") && !form.contains("selected"), "something is chosen beforehand");
    assert!(page.find("id=\"decide\"") < page.find("What it means"), "the form is beside the verdict");
    let send = |decision: Option<&'static str>, note: &'static str| {
        let mut fields = vec![("form_token", form_token(&page)), ("who", "A".to_owned()), ("note", note.to_owned())];
        fields.extend(decision.map(|decision| ("decision", decision.to_owned())));
        served.client.post(served.url(&format!("/examination/{id}/decide"))).form(&fields).send()
    };
    for (decision, note, told) in [
        (None, "why", "one of confirmed, dismissed, second-look, appealed"),
        (Some("maybe"), "why", "one of confirmed, dismissed, second-look, appealed"),
        (Some("dismissed"), " \n", "say why"),
    ] {
        let answer = send(decision, note).await.expect("answers");
        assert_eq!(answer.status(), 400);
        let text = answer.text().await.expect("text");
        assert!(text.contains(told), "{text}");
    }
    assert_eq!(served.json(&format!("/api/v1/examinations/{id}/decisions")).await, json!([]));
    // When nothing is left to decide, the last one stays.
    let waiting = served.json("/api/v1/examinations?decision=open&severity=low").await;
    let mut last = String::new();
    for row in waiting["items"].as_array().expect("items") {
        let id = row["id"].as_str().expect("an id");
        let fields = [
            ("form_token", form_token(&page)),
            ("who", "A".into()),
            ("decision", "dismissed".into()),
            ("note", "known".into()),
        ];
        let done = served.client.post(served.url(&format!("/examination/{id}/decide"))).form(&fields).send();
        last = done.await.expect("answers").headers()["location"].to_str().expect("text").to_owned();
        if last == format!("/examination/{id}") {
            break;
        }
    }
    assert!(!last.contains('?'), "{last}");
    let (_, queue) = served.get("/queue").await;
    assert!(queue.contains("0 examinations") && queue.contains("Nothing matches"), "{queue}");
}

/// An examination whose claim of a base the weights do not bear out, without a finding.
fn false_claim() -> Examination {
    let mut examination = sample::clear();
    examination.candidate.source = "hf:cedar/false-claim".into();
    examination.relation = crate::examination::Relation::Unrelated;
    examination.claim = Some(crate::examination::Claim {
        base: Some("hf:example/tiny-base".into()),
        holds: Some(false),
        ..Default::default()
    });
    examination
}

async fn page_of(served: &Served, path: &str) -> String {
    let (status, page) = served.get(path).await;
    assert_eq!(status, 200, "{path}");
    page
}

/// The names of a page's table of examinations, in order.
fn names(page: &str) -> Vec<String> {
    let rows = page.split("<th scope=\"row\"").skip(1);
    rows.map(|row| row.split("\">").nth(2).unwrap_or_default().split("</a>").next().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn the_queue_opens_on_what_waits_with_false_claims_among_it() {
    let mut all = sample::everything().examinations;
    all.push(false_claim());
    let served = serve_these(all.clone(), None).await;
    let (_, page) = served.get("/queue").await;
    let shown = names(&page);
    assert_eq!(shown.last().map(String::as_str), Some("hf:cedar/false-claim"), "{shown:?}");
    assert!(
        shown.contains(&"hf:example/tiny-edited".to_owned()) && !shown.contains(&"hf:example/tiny-copy".to_owned())
    );
    let counted = format!("<strong>{} examinations</strong>", shown.len());
    assert!(page.contains(&counted) && page.contains("false claim of a base") && page.contains(">Reset</a>"), "{page}");
    assert!(page.contains("Decision: open") && page.contains("Severity from: low"));
    // A form that was sent with every field empty asks for everything.
    let (_, page) = served.get("/queue?outcome=&severity=&decision=&text=").await;
    assert_eq!(names(&page).len(), all.len());
    // The API lists everything as it always did.
    assert_eq!(served.json("/api/v1/examinations").await["items"].as_array().map(Vec::len), Some(all.len()));
    for (query, expected) in [
        ("claim=false&text=cedar", 1),
        ("claim=false&outcome=orthogonalized", 1),
        ("uploader=cedar", 1),
        ("relation=unrelated", 1),
        ("signature=code-on-load", 1),
        ("declared=yes", 0),
        ("declared=no", all.len()),
    ] {
        let page = served.json(&format!("/api/v1/examinations?{query}")).await;
        assert_eq!(page["items"].as_array().map(Vec::len), Some(expected), "{query}: {page}");
        let (_, page) = served.get(&format!("/queue?{query}")).await;
        assert_eq!(names(&page).len(), expected, "{query}");
    }
    let row = &served.json("/api/v1/examinations?text=tiny-edited").await["items"][0];
    assert_eq!(
        (&row["uploader"], &row["claim"], &row["declared"]),
        (&json!("example"), &json!("holds"), &json!(false))
    );
    assert!(
        row["lambda_min"].as_f64().is_some_and(|lambda| lambda > 0.0)
            && row["lambda_max"].as_f64() > row["lambda_min"].as_f64()
    );
    assert_eq!(row["signature"], "out-rank1-global");
    assert!(
        page_of(&served, "/queue?text=tiny-edited").await.contains("One direction removed from what"),
        "why, in words"
    );
    // Where no removal fits, there is no strength of one.
    assert!(served.json("/api/v1/examinations?text=tiny-tuned").await["items"][0]["lambda_max"].is_null());
}

#[tokio::test]
async fn a_filter_that_cannot_match_is_refused_with_what_there_is() {
    let served = serve(None).await;
    for (query, told) in [
        ("outcome=bogus", "orthogonalized, suspect, inconclusive, clear, not-examined"),
        ("severity=loud", "none, info, low, medium, high"),
        ("decision=bogus", "open, confirmed, dismissed, second-look, appealed"),
        ("relation=bogus", "identical, repackaged, recast, quantized, low-rank-edit"),
        ("claim=bogus", "holds, false, not-told, none"),
        ("declared=bogus", "yes, no"),
        ("sort=bogus", "severity, newest, downloads"),
        ("base=bogus", "the index has hf:example/tiny-base"),
        ("uploader=bogus", "example"),
        ("family=bogus", "the index has llama"),
        ("form=bogus", "safetensors"),
        ("signature=bogus", "out-rank1-global"),
        ("downloads=many", "a whole number"),
        ("since=yesterday", "a date like"),
        ("until=bogus", "a date like"),
        ("outcom=clear", "expected one of"),
    ] {
        for path in ["/queue", "/api/v1/examinations"] {
            let (status, text) = served.get(&format!("{path}?{query}")).await;
            assert!(status == 400 && text.contains(told), "{path}?{query}: {status} {text}");
        }
    }
    assert_eq!(served.get("/api/v1/examinations?rows=many").await.0, 400);
}

/// A row of the queue that ended at that time; what was recorded without one is no sweep's.
fn examined_by_a_sweep(index: &mut Index, at: Timestamp, examination: &Examination) {
    let sql = "INSERT INTO sweep_queue (hub, repository, base, listed, facts, state, first_seen, changed)
               VALUES ('hf', ?1, '', '', '{}', 'done', ?2, ?2)";
    let name = examination.candidate.source.strip_prefix("hf:").expect("on a hub");
    index.connection_mut().execute(sql, (name, at.as_second())).expect("is noted");
}

#[tokio::test]
async fn the_overview_says_what_is_new_and_what_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index.db");
    let mut index = Index::open(&path).expect("opens");
    let at = |hours: i64| Timestamp::from_second(noon().as_second() - 48 * 3600 + hours * 3600).expect("in range");
    let run = |index: &mut Index, hours: i64, summary: Option<Value>| {
        let ended = summary.as_ref().map(|_| at(hours).as_second() + 184);
        let values = (at(hours).as_second(), ended, summary.map(|summary| summary.to_string()));
        let sql = "INSERT INTO sweep_run (started, ended, plan, summary) VALUES (?1, ?2, '{}', ?3)";
        index.connection_mut().execute(sql, values).expect("is noted");
    };
    // The first sweep finds one repository edited, and another one clear, which a later commit changes.
    let revised = |mut examination: Examination, commit: &str| {
        examination.candidate.source = "hf:example/turned".into();
        examination.candidate.revision = Some(commit.repeat(40));
        examination
    };
    index.record(&sample::orthogonalized(), at(0)).expect("records");
    index.record(&revised(sample::clear(), "a"), at(0)).expect("records");
    run(
        &mut index,
        0,
        Some(json!({ "examined": 2, "outcomes": { "clear": 1, "orthogonalized": 1 }, "seconds": 90.5 })),
    );
    index.record(&sample::orthogonalized(), at(24)).expect("seen again");
    index.record(&revised(sample::orthogonalized(), "b"), at(24)).expect("records");
    index.record(&false_claim(), at(24)).expect("records");
    index.record(&sample::failed(), at(24)).expect("records");
    for one in [sample::orthogonalized(), revised(sample::clear(), "b"), false_claim(), sample::failed()] {
        examined_by_a_sweep(&mut index, at(24), &one);
    }
    // In the same second somebody compared two folders, and scanned an upload that the sweep did not look at.
    for (source, mut other) in [("./folder", sample::orthogonalized()), ("hf:example/scanned", sample::failed())] {
        other.candidate.source = source.to_owned();
        index.record(&other, at(24)).expect("records");
    }
    let summary = json!({
        "listed": { "seen": 5 }, "examined": 4, "outcomes": { "clear": 1, "orthogonalized": 2, "denied": 1 },
        "bytes": 21_658_630, "weight_bytes": 1024, "requests": 125, "seconds": 184.2, "left": 1,
    });
    run(&mut index, 24, Some(summary));
    drop(index);
    let (address, _signal, _) = start(settings_over(folder.path(), None), Limits::default()).await;
    let get =
        || async { reqwest::get(format!("http://{address}/")).await.expect("answers").text().await.expect("text") };
    let page = get().await;
    let text = page.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect::<String>();
    for needed in [
        "examined 4 repositories of 5 listed: 2 orthogonalized, 0 suspect, 1 could not be examined.",
        "It took 3 min 4 s and received 20.7 MiB in 125 requests, 1.0 KiB of it weights.",
        "1 repository is left for the next sweep",
        "The one before, on 2026-01-31 02:40 UTC, examined 2 and found 1 orthogonalized and 0 suspect.",
        "needs an access grant",
        "4 examinations of low severity and above, not decided.",
    ] {
        assert!(text.contains(needed), "{needed}\n{text}");
    }
    let part =
        |heading: &str| page.split(heading).nth(1).expect("a part").split("<h2>").next().unwrap_or_default().to_owned();
    let new = part("New in the last sweep</h2>");
    let sources = |part: &str| names(part);
    assert_eq!(sources(&new), ["hf:example/turned", "hf:cedar/false-claim"]);
    assert!(new.contains("data-label=\"before\">clear<") && new.contains("data-label=\"before\">not seen<"), "{new}");
    let unexamined = part("Could not be examined in the last sweep</h2>");
    assert!(unexamined.contains("needs an access grant") && !unexamined.contains("example/scanned"), "{unexamined}");
    let waits = part("Waits longest for a decision</h2>");
    let waiting = ["hf:example/tiny-edited", "hf:example/turned", "hf:cedar/false-claim", "./folder"];
    assert_eq!(sources(&waits), waiting);
    assert!(page.contains("sweeps-found") && !page.contains("21658630"));
    // One that did not end says so, and nothing is called new that nobody looked at.
    run(&mut Index::open(&path).expect("opens"), 47, None);
    let page = get().await;
    assert!(page.contains("has not ended") && page.contains("Nothing that needs a look"), "{page}");
}

#[tokio::test]
async fn beyond_loopback_only_with_a_token() {
    let settings = |bind: [u8; 4], token: Option<&str>| ServeSettings {
        index: PathBuf::from("/nonexistent/index.db"),
        catalogue: Catalogue::default(),
        bind: SocketAddr::from((bind, 0)),
        token: token.map(str::to_owned),
        secure: false,
        clock: noon,
    };
    for wrong in [settings([0, 0, 0, 0], None), settings([0, 0, 0, 0], Some("short"))] {
        let error = App::new(wrong).err().expect("refused");
        assert_eq!(error.kind, ErrorKind::Usage, "{error}");
    }
    let served = serve(Some(TOKEN)).await;
    assert_eq!(served.get("/queue").await.0, 303);
    assert_eq!(served.get("/api/v1/examinations").await.0, 401);
    assert_eq!(served.get("/style.css").await.0, 200);
    let bearer = |token: &str| served.client.get(served.url("/api/v1/examinations")).bearer_auth(token);
    assert_eq!(bearer("wrong token, quite long").send().await.expect("answers").status(), 401);
    assert_eq!(bearer(TOKEN).send().await.expect("answers").status(), 200);

    let login = |token: &'static str| served.client.post(served.url("/login")).form(&[("token", token)]);
    assert_eq!(login("wrong token, quite long").send().await.expect("answers").status(), 401);
    let done = login(TOKEN).send().await.expect("answers");
    let cookie = done.headers().get("set-cookie").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap_or_default();
    let inside = served.client.get(served.url("/queue")).header("cookie", pair).send().await.expect("answers");
    assert_eq!(inside.status(), 200);
    let out = served.client.post(served.url("/logout")).header("cookie", pair).send().await.expect("answers");
    assert_eq!(out.status(), 303);
    let after = served.client.get(served.url("/queue")).header("cookie", pair).send().await.expect("answers");
    assert_eq!(after.status(), 303);
}

fn settings_over(folder: &std::path::Path, token: Option<&str>) -> ServeSettings {
    ServeSettings {
        index: folder.join("index.db"),
        catalogue: Catalogue::default(),
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: token.map(str::to_owned),
        secure: false,
        clock: noon,
    }
}

/// Short enough not to wait for, long enough for an honest request on a machine that is busy with other things.
fn short() -> Limits {
    Limits { headers: Duration::from_millis(300), ..Limits::default() }
}

/// Longer than anything here takes; that it is not reached is what is tested.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server sends on this connection until it closes it.
async fn until_closed(mut stream: tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut text))
        .await
        .expect("the server closes it");
    String::from_utf8_lossy(&text).into_owned()
}

async fn say(address: SocketAddr, words: &str) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    tokio::io::AsyncWriteExt::write_all(&mut stream, words.as_bytes()).await.expect("is sent");
    stream
}

#[tokio::test]
async fn silent_and_slow_visitors_are_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { request: Duration::from_millis(300), ..short() };
    let (address, _signal, _) = start(settings_over(folder.path(), Some(TOKEN)), limits).await;
    let body = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 100\r\n\r\ntok";
    assert_eq!(until_closed(say(address, "").await).await, "", "nothing said");
    let started = until_closed(say(address, "GET /healthz HT").await).await;
    assert!(started.is_empty() || started.starts_with("HTTP/1.1 408"), "half a line: {started}");
    let after = until_closed(say(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
    assert!(after.starts_with("HTTP/1.1 200") && after.ends_with("ok\n"), "silent after an answer: {after}");
    let half = until_closed(say(address, body).await).await;
    assert!(half.starts_with("HTTP/1.1 408"), "half a body: {half}");
}

#[tokio::test]
async fn a_connection_takes_no_request_after_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { connection: Duration::ZERO, ..Limits::default() };
    let (address, _signal, _) = start(settings_over(folder.path(), None), limits).await;
    until_closed(say(address, "").await).await;
}

#[tokio::test]
async fn more_visitors_than_places_wait_for_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { connections: 2, ..short() };
    let (address, _signal, _) = start(settings_over(folder.path(), None), limits).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(say(address, "").await);
    }
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = until_closed(say(address, &request).await).await;
    assert!(answer.ends_with("ok\n"), "{answer}");
    for stream in silent {
        until_closed(stream).await;
    }
}

#[tokio::test]
async fn a_signal_ends_it_whoever_is_connected_and_a_second_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n";
    for (farewell, signals) in [(Duration::from_millis(100), 1), (Duration::from_secs(3600), 2)] {
        let limits = Limits { farewell, headers: Duration::from_secs(3600), ..Limits::default() };
        let (address, signal, running) = start(settings_over(folder.path(), None), limits).await;
        let _connected = [say(address, "").await, say(address, "GET / HT").await, say(address, head).await];
        // Answered after those before it were accepted.
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        until_closed(say(address, &request).await).await;
        for _ in 0..signals {
            signal.send(()).expect("runs");
        }
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("without a panic");
    }
}

#[tokio::test]
async fn wrong_tokens_wait_for_one_another_and_the_right_one_gets_its_turn() {
    let served = serve(Some(TOKEN)).await;
    let guess = |token: &str| served.client.get(served.url("/api/v1/examinations")).bearer_auth(token).send();
    let guesses = futures_util::future::join_all((0..20).map(|number| guess(&format!("guess number {number}"))));
    // Asked while the guesses wait.
    let (wrong, right) = tokio::join!(guesses, guess(TOKEN));
    assert_eq!(right.expect("answers").status(), 200);
    assert!(wrong.into_iter().all(|answer| answer.expect("answers").status() == 401));
}

#[tokio::test]
async fn the_address_printed_at_the_start_logs_in() {
    let served = serve(Some(TOKEN)).await;
    let link = |token: &str| {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        served.client.get(served.url(&format!("/login?{query}"))).send()
    };
    assert_eq!(link("another token, quite long").await.expect("answers").status(), 401);
    let done = link(TOKEN).await.expect("answers");
    assert_eq!((done.status().as_u16(), done.headers()["location"].to_str().expect("text")), (303, "/"));
    let cookie = done.headers()["set-cookie"].to_str().expect("text");
    assert!(cookie.contains("HttpOnly") && cookie.contains("Max-Age=43200"), "{cookie}");
    let pair = cookie.split(';').next().unwrap_or_default();
    let inside = served.client.get(served.url("/queue")).header("cookie", pair).send().await.expect("answers");
    assert_eq!(inside.status(), 200);
    let tokens = [fresh_token(), fresh_token()];
    assert!(tokens[0] != tokens[1] && tokens[0].len() >= MIN_TOKEN_CHARACTERS);
}

#[tokio::test]
async fn two_names_for_the_host_are_refused() {
    for token in [None, Some(TOKEN)] {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, _signal, _) = start(settings_over(folder.path(), token), Limits::default()).await;
        let twice = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
        let answer = until_closed(say(address, twice).await).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}

#[tokio::test]
async fn a_search_for_nothing_that_can_be_named_finds_nothing() {
    let served = serve(None).await;
    for text in ["%00", "tiny%00", "%00edited"] {
        let page = served.json(&format!("/api/v1/examinations?text={text}")).await;
        assert_eq!(page["items"].as_array().map(Vec::len), Some(0), "{text}");
        assert_eq!(served.get(&format!("/queue?text={text}")).await.0, 200, "{text}");
    }
}

#[tokio::test]
async fn what_a_hostile_header_named_is_not_all_served() {
    let mut one = sample::orthogonalized();
    let names = (0..200_000).map(|number| crate::examination::NotExamined {
        tensor: format!("model.layers.{number}.{}", "x".repeat(200)),
        reason: "not in the base".to_owned(),
    });
    one.coverage.not_examined = names.collect();
    let served = serve_these(vec![one], None).await;
    let id = served.first_id().await;
    let (status, text) = served.get(&format!("/api/v1/examinations/{id}")).await;
    assert!(status == 200 && text.len() < 1_000_000, "{} bytes", text.len());
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let listed = answer["coverage"]["not_examined"].as_array().expect("a list");
    assert_eq!(listed.len(), crate::limits::MAX_NOT_EXAMINED + 1);
    assert_eq!(listed.last().map(|last| &last["reason"]), Some(&json!("199000 more are not listed")));
    let (status, page) = served.get(&format!("/examination/{id}")).await;
    assert!(status == 200 && page.len() < 1_000_000, "{} bytes", page.len());
}

/// A link in the place of the file that SQLite must be able to make, which it follows nowhere: to it that is what
/// read-only media are, for root too.
#[cfg(unix)]
#[tokio::test]
async fn an_index_that_cannot_be_written_is_served_without_decisions() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut index = Index::open(&folder.path().join("index.db")).expect("opens");
    index.record(&sample::orthogonalized(), noon()).expect("records");
    drop(index);
    std::os::unix::fs::symlink("nowhere", folder.path().join("index.db-shm")).expect("links");
    let (address, _signal, _) = start(settings_over(folder.path(), None), Limits::default()).await;
    let client = reqwest::Client::new();
    let list = client.get(format!("http://{address}/api/v1/examinations")).send().await.expect("answers");
    let list: Value = list.json().await.expect("JSON");
    let id = list["items"][0]["id"].as_str().expect("an id");
    let decide = client.post(format!("http://{address}/api/v1/examinations/{id}/decisions"));
    let answer = decide.json(&json!({ "decision": "confirmed", "who": "A" })).send().await.expect("answers");
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn another_name_for_loopback_gets_nothing() {
    let served = serve(None).await;
    let rebound = served.client.get(served.url("/queue")).header("host", "evil.example").send().await.expect("answers");
    assert_eq!(rebound.status(), 403);
}

#[tokio::test]
async fn pages_of_a_list_follow_one_another() {
    let served = serve(None).await;
    for sort in ["severity", "newest", "downloads"] {
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let page = served.json(&format!("/api/v1/examinations?rows=2&sort={sort}&after={after}")).await;
            seen.extend(page["items"].as_array().expect("items").iter().map(|row| row["id"].to_string()));
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        let expected = sample::everything().examinations.len();
        assert_eq!((all, seen.len()), (expected, expected), "{sort}");
    }
    let (status, _) = served.get("/api/v1/examinations?after=1;DROP").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn reads_while_another_connection_writes() {
    let served = serve(None).await;
    let mut writer = Index::open(&served.index).expect("opens");
    let transaction = writer.connection_mut().transaction().expect("begins");
    transaction.execute("UPDATE examination SET runs = runs + 1", []).expect("writes");
    assert_eq!(served.get("/queue").await.0, 200);
    transaction.commit().expect("commits");
}

#[tokio::test]
async fn prevalence_counts_repositories() {
    let served = serve(None).await;
    let all = served.json("/api/v1/prevalence").await;
    assert_eq!(all["overall"]["listed"], 7);
    assert_eq!(all["overall"]["examined"], 6);
    assert_eq!(all["overall"]["orthogonalized"], 3);
    assert_eq!(all["not_examinable"][0]["reason"], "needs an access grant");
    assert_eq!(all["by"]["family"].as_array().map(Vec::len), Some(2));
    assert!(all["overall"]["share_of_downloads"]["share"].as_f64().is_some_and(|share| share > 0.99));
}

/// An index of that many made-up examinations of as many repositories: 40 bases, 400 uploaders, two years of uploads.
fn fill(index: &mut Index, examinations: u32) {
    let seed = sample::everything().examinations;
    for examination in &seed {
        index.record(examination, noon()).expect("records");
    }
    let connection = index.connection_mut();
    let transaction = connection.transaction().expect("begins");
    transaction
        .execute_batch(&format!(
            "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {examinations})
                 SELECT i, (i * 2654435761) % 4294967296 AS h FROM n;
             INSERT INTO listing SELECT printf('hf:owner-%d/model-%d', h % 400, i), h % 100000, 1700000000 + h % 63072000,
                 printf('family-%d', h % 12), h % 29 = 0, 1770000000 FROM n;
             INSERT INTO repository (source, hub, owner) SELECT printf('hf:bases/base-%d', i), 'hf', 'bases' FROM n WHERE i <= 40;
             INSERT INTO repository (source, hub, owner)
                 SELECT printf('hf:owner-%d/model-%d', h % 400, i), 'hf', printf('owner-%d', h % 400) FROM n;
             INSERT INTO side (identity, repository, revision, format)
                 SELECT printf('%064d', 1000000 + r.key), r.key, printf('%040d', r.key),
                        CASE r.key % 3 WHEN 0 THEN 'gguf' WHEN 1 THEN 'safetensors' ELSE 'adapter' END
                 FROM repository r WHERE r.source LIKE 'hf:owner-%' OR r.source LIKE 'hf:bases/%';
             INSERT INTO examination (id, schema, tool_version, base, candidate, base_repository, candidate_repository,
                 first_seen, last_seen, runs, status, reason, depth, tensors, compared, identical, bytes_read, has_profile,
                 has_claim, catalogue, judged_at, relation, verdict, because, severity)
                 SELECT printf('%064x', 1000000 + i), 'orthoscope/examination/1', '0.1.0', bs.key, cs.key, b.key, c.key,
                     1760000000 + i, 1760000000 + i, 1, CASE WHEN h % 17 = 0 THEN 'failed' ELSE 'complete' END,
                     CASE WHEN h % 17 = 0 THEN 'denied: the hub wants an access grant (403)' END, 'screen', 272, 272, 200, 1000, 0, 0,
                     1, 1760000000 + i, 'fine-tuned',
                     CASE WHEN h % 11 = 0 THEN 'orthogonalized' WHEN h % 50 = 1 THEN 'suspect' ELSE 'clear' END, 'made up',
                     CASE WHEN h % 11 = 0 THEN 4 WHEN h % 50 = 1 THEN 2 ELSE 0 END
                 FROM n
                 JOIN repository c ON c.source = printf('hf:owner-%d/model-%d', h % 400, i)
                 JOIN side cs ON cs.repository = c.key
                 JOIN repository b ON b.source = printf('hf:bases/base-%d', 1 + h % 40)
                 JOIN side bs ON bs.repository = b.key;
             DROP TABLE n;"
        ))
        .expect("fills");
    transaction.commit().expect("commits");
    index.connection_mut().execute_batch("ANALYZE").expect("analyses");
}

/// Shortest of some tries, in milliseconds: what the work takes, not what else the machine did.
async fn shortest(served: &Served, path: &str) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        assert_eq!(served.get(path).await.0, 200, "{path}");
        best = best.min(start.elapsed().as_secs_f64() * 1000.0);
    }
    best
}

/// A measurement, not a test: times are printed beside what they should stay under, and never asserted.
/// `cargo test --release --lib a_large_index_stays_fast -- --ignored --nocapture`
#[tokio::test]
#[ignore = "fills an index with 200,000 examinations, which takes a while"]
#[expect(clippy::print_stdout, reason = "a measurement to be read")]
async fn a_large_index_stays_fast() {
    let empty = serve_these(Vec::new(), None).await;
    let large = serve(None).await;
    fill(&mut Index::open(&large.index).expect("opens"), 200_000);
    for (path, limit) in [
        ("/queue", 50.0),
        ("/queue?sort=downloads&outcome=orthogonalized", 50.0),
        ("/queue?sort=newest&text=model-1", 50.0),
        ("/queue?text=owner-37/model-1999", 50.0),
        ("/queue?base=hf:bases/base-7&decision=open&severity=medium", 50.0),
        ("/queue?family=family-3&form=gguf&outcome=suspect&downloads=90000", 50.0),
        ("/queue?sort=severity&after=0.1760000500.507", 50.0),
        ("/", 250.0),
        ("/prevalence", 500.0),
        ("/tree?base=hf:bases/base-7", 250.0),
    ] {
        // With nothing in it, an index has none of the words that are asked for.
        let bare = path.split('?').next().unwrap_or_default();
        let (small, big) = (shortest(&empty, bare).await, shortest(&large, path).await);
        let ratio = big / small;
        println!(
            "{path}: {big:.1} ms of {limit} with 200,000 examinations, {small:.2} ms with none ({ratio:.0} times)"
        );
    }
}
