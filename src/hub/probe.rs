//! Whether a hub can be reached, how fast it answers, whether it takes the token, and what is left of its quota.

use std::time::{Duration, Instant};

use url::Url;

use super::pace::rate_limit;
use super::{Answer, Client, Hub, Meter};
use crate::error::{ErrorKind, Result};
use crate::limits;

/// What became of the user's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// None is set.
    None,
    /// It was sent, and the answer was no refusal.
    Taken,
    /// The hub refuses it.
    Refused,
}

/// A hub's answer to one cheap request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The address asked.
    pub endpoint: Url,
    /// From the request to the end of its answer.
    pub latency: Duration,
    /// What became of the token.
    pub token: Token,
    /// Requests left of the stated quota, and seconds until it is full again.
    pub left: Option<(u64, u64)>,
}

/// Asks a hub one cheap question. The token goes to the hub's own origin alone, as with any request of the client.
///
/// # Errors
/// Whatever kept the hub from answering: network, its overload, offline mode. A refused token is an answer.
pub fn probe(client: &Client, hub: &dyn Hub) -> Result<Probed> {
    let has_token = !hub.credentials().is_empty();
    let ask = hub.probe()?;
    let started = Instant::now();
    // A captive portal answers too, but not in JSON.
    let read = |answer: &Answer| answer.json().map(|_| answer.headers.clone());
    let answer = client.ask(hub, &ask, limits::MAX_INFO_BYTES, &Meter::unlimited(), &read);
    let latency = started.elapsed();
    let (token, left) = match answer {
        Ok(headers) => (if has_token { Token::Taken } else { Token::None }, rate_limit(&headers)),
        Err(error) if has_token && error.kind == ErrorKind::Denied => (Token::Refused, None),
        Err(error) => return Err(error),
    };
    Ok(Probed { endpoint: hub.endpoint().clone(), latency, token, left })
}
