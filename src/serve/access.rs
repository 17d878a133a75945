//! Who may come in, and from where a change may be asked for.
//!
//! Every request needs the token: as `Authorization: Bearer`, or as the cookie that the login form gives. Without one
//! only loopback is served, and only under a loopback name, so that a web page that points its own name at 127.0.0.1
//! gets nothing. Changes by form carry a token of their own (bound to the session), and a browser's word that they come
//! from another site is believed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{App, PageFailure, ServeSettings, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_SESSIONS;

/// A token shorter than this can be guessed.
pub const MIN_TOKEN_CHARACTERS: usize = 16;

const COOKIE: &str = "orthoscope_session";

/// How long a session lasts: a working day, so that a browser left open at night is logged out in the morning.
const SESSION: Duration = Duration::from_secs(12 * 3600);

/// What a wrong token costs, one after another whoever sends them: ten guesses a second in all. With every connection
/// taken by guesses the right token still gets its turn within a request's time.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(100);

/// What a page may load: this server's stylesheet and images of its own, nothing inline, no script at all.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// Who may come in.
pub(crate) struct ServeAccess {
    token: Option<[u8; 32]>,
    /// Keys the forms' tokens; new with every start.
    secret: [u8; 32],
    secure: bool,
    sessions: Mutex<Sessions>,
    /// Held while a token is compared, and by a wrong one for [`WRONG_TOKEN_DELAY`] longer; those who wait get it in
    /// order.
    turn: tokio::sync::Mutex<()>,
}

/// Sessions and when each began.
#[derive(Default)]
struct Sessions(BTreeMap<String, Instant>);

impl Sessions {
    fn begin(&mut self, now: Instant) -> String {
        self.0.retain(|_, began| now.saturating_duration_since(*began) < SESSION);
        if self.0.len() >= MAX_SESSIONS {
            let oldest = self.0.iter().min_by_key(|(_, began)| **began).map(|(id, _)| id.clone());
            oldest.map(|id| self.0.remove(&id));
        }
        let id = fresh_token();
        self.0.insert(id.clone(), now);
        id
    }

    fn holds(&self, id: &str, now: Instant) -> bool {
        self.0.get(id).is_some_and(|began| now.saturating_duration_since(*began) < SESSION)
    }

    fn end(&mut self, id: &str) {
        self.0.remove(id);
    }
}

/// The session that a request belongs to: the cookie's value, or the empty one of loopback without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session(String);

fn random() -> [u8; 32] {
    use rand::RngCore as _;
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// A token that nobody can guess: 64 hex digits.
pub fn fresh_token() -> String {
    hex::encode(random())
}

/// A keyed hash: SHA-256 twice, key before each, so that a hash cannot be continued.
fn keyed(key: &[u8; 32], text: &str) -> [u8; 32] {
    let inner = Sha256::new().chain_update(key).chain_update(text.as_bytes()).finalize();
    Sha256::new().chain_update(key).chain_update(inner).finalize().into()
}

impl ServeAccess {
    pub(super) fn new(settings: &ServeSettings) -> Result<Self> {
        let doing = "starting the server";
        let secret = random();
        let token = match &settings.token {
            Some(token) if token.chars().count() < MIN_TOKEN_CHARACTERS => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{doing}: the token needs at least {MIN_TOKEN_CHARACTERS} characters"),
                ));
            }
            Some(token) => Some(keyed(&secret, token)),
            None if settings.bind.ip().is_loopback() => None,
            None => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "{doing}: {} can be reached by others; give a token (ORTHOSCOPE_TOKEN or --token-file), or \
                         listen on 127.0.0.1",
                        settings.bind
                    ),
                ));
            }
        };
        Ok(Self {
            token,
            secret,
            secure: settings.secure,
            sessions: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Whether a visitor has to log in.
    pub(crate) fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// Compares hashes of equal length in constant time, so neither length nor prefix of the token can be measured; one
    /// at a time, so that guesses do not run beside each other.
    pub(super) async fn knows(&self, given: &str) -> bool {
        let _turn = self.turn.lock().await;
        let right = self.token.is_some_and(|token| bool::from(token.ct_eq(&keyed(&self.secret, given))));
        if !right {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        }
        right
    }

    /// The token of a session's forms.
    pub(crate) fn form_token(&self, session: &Session) -> String {
        hex::encode(keyed(&self.secret, &format!("form {}", session.0)))
    }

    /// Whether a form's token is the session's.
    pub(crate) fn form_token_holds(&self, session: &Session, given: &str) -> bool {
        bool::from(self.form_token(session).as_bytes().ct_eq(given.as_bytes()))
    }

    async fn session_of(&self, headers: &HeaderMap) -> Option<Session> {
        if !self.needs_token() {
            return Some(Session(String::new()));
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(token) = bearer.and_then(|value| value.strip_prefix("Bearer ")) {
            return self.knows(token.trim()).await.then(|| Session("bearer".to_owned()));
        }
        let id = cookie(headers)?;
        lock(&self.sessions).holds(id, Instant::now()).then(|| Session(id.to_owned()))
    }

    /// Ends the session of a request: the answer takes its cookie back.
    pub(super) fn dismiss(&self, headers: &HeaderMap) -> Response {
        if let Some(id) = cookie(headers) {
            lock(&self.sessions).end(id);
        }
        ([(header::SET_COOKIE, self.cookie("", "; Max-Age=0"))], Redirect::to("/login")).into_response()
    }

    /// Begins a session: to the first page, with its cookie.
    pub(super) fn admit(&self) -> Response {
        let id = lock(&self.sessions).begin(Instant::now());
        let age = format!("; Max-Age={}", SESSION.as_secs());
        ([(header::SET_COOKIE, self.cookie(&id, &age))], Redirect::to("/")).into_response()
    }

    fn cookie(&self, value: &str, age: &str) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{age}{secure}");
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Whether a Host header names loopback: `localhost`, 127.0.0.0/8, `[::1]`, with any port.
fn loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a browser says that the request was made by another site's page.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        return true;
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, rest)| !rest.eq_ignore_ascii_case(host)),
        _ => false,
    }
}

/// Lets requests through, with their session, and puts the headers on every answer.
pub(super) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/login" | "/style.css" | "/icon.svg" | "/healthz");
    let api = request.uri().path().starts_with("/api/");
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let denied = |what: &str| PageFailure(Error::new(ErrorKind::Denied, what)).into_response();
    let mut response = if request.headers().get_all(header::HOST).iter().count() > 1 {
        // A proxy and this server might each believe another one.
        (StatusCode::BAD_REQUEST, "more than one Host header\n").into_response()
    } else if !app.access.needs_token() && !loopback_name(host) {
        denied("without a token this server answers only under a loopback name")
    } else if changes && from_elsewhere(request.headers()) {
        denied("changes are not taken from another site's page")
    } else {
        match app.access.session_of(request.headers()).await {
            Some(session) => {
                request.extensions_mut().insert(session);
                next.run(request).await
            }
            None if open => next.run(request).await,
            None if api => {
                let body = serde_json::json!({ "error": "a token is needed: Authorization: Bearer …" });
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, challenge, axum::Json(body)).into_response()
            }
            None => Redirect::to("/login").into_response(),
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: it would make browsers hide the origin of a form's request from this server as well.
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names() {
        for host in ["localhost", "localhost:8470", "127.0.0.1:1", "127.9.9.9", "[::1]:8470", "[::1]"] {
            assert!(loopback_name(host), "{host}");
        }
        for host in
            ["", "example.org", "example.org:127", "127.0.0.1.example.org", "10.0.0.1:8470", "localhost.example"]
        {
            assert!(!loopback_name(host), "{host}");
        }
    }

    #[test]
    fn sessions_end_after_twelve_hours_and_the_oldest_makes_room() {
        let start = Instant::now();
        let hours = |count: u64| start + Duration::from_secs(count * 3600);
        let mut sessions = Sessions::default();
        let first = sessions.begin(start);
        assert!(sessions.holds(&first, hours(11)) && !sessions.holds(&first, hours(12)));
        assert!(!sessions.holds("", start));
        let second = sessions.begin(hours(1));
        for _ in 2..MAX_SESSIONS {
            sessions.begin(hours(2));
        }
        assert!(sessions.holds(&first, hours(2)));
        sessions.begin(hours(2));
        assert!(!sessions.holds(&first, hours(2)) && sessions.holds(&second, hours(2)));
        sessions.begin(hours(30));
        assert_eq!(sessions.0.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn other_sites_are_known_by_two_headers() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| {
                headers.insert(*name, HeaderValue::from_static(value));
            });
            from_elsewhere(&headers)
        };
        assert!(!with(&[("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-origin")]));
        assert!(!with(&[("host", "127.0.0.1:1")]));
        assert!(with(&[("host", "127.0.0.1:1"), ("origin", "http://evil.example")]));
        assert!(with(&[("host", "127.0.0.1:1"), ("origin", "null")]));
        assert!(with(&[("sec-fetch-site", "cross-site")]));
    }
}
