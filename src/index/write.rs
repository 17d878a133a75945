//! The one writer of a running program: jobs from any thread, many to a transaction.
//!
//! A transaction that reaches the disk costs milliseconds whatever is in it, so jobs are gathered until there are
//! [`BATCH`] of them or [`LINGER`] has passed. A job counts as done when its [`Ticket`] says so, after its transaction
//! is on disk: a program killed before that has lost nothing that it was told is recorded.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::{Index, Recorded, failed, record};
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;

/// Most jobs in one transaction.
pub const BATCH: usize = 256;

/// How long the first job of a transaction waits for others.
pub const LINGER: Duration = Duration::from_secs(1);

/// Jobs that may wait before those who send them have to.
const QUEUE: usize = 1024;

/// A job: it writes through the connection, which has a transaction open, and gives back what to do once that is on
/// disk (or has failed).
type Job = Box<dyn FnOnce(&Connection) -> Settle + Send>;
type Settle = Box<dyn FnOnce(Result<(), String>) + Send>;

enum Message {
    Job(Job),
    /// Write what there is now.
    Flush,
}

/// A handle of the writer, for any number of threads.
#[derive(Clone)]
pub struct Writer {
    sender: SyncSender<Message>,
}

/// The writer's thread. Dropping it waits until everything sent is written.
pub struct WriterThread {
    writer: Option<Writer>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The result of a job, once it is on disk.
#[must_use = "a job may fail"]
pub struct Ticket<T> {
    receiver: Receiver<Result<T>>,
    sender: SyncSender<Message>,
}

impl<T> Ticket<T> {
    /// Waits until the job is on disk, asking for that to happen now.
    pub fn wait(self) -> Result<T> {
        // A closed channel means that the writer has stopped; `recv` says so then.
        let _ = self.sender.send(Message::Flush);
        self.receiver.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Waits until the job is on disk, whenever that happens.
    pub fn settled(self) -> Result<T> {
        self.receiver.recv().unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Index, "writing to the index: its writer has stopped")
}

impl Writer {
    /// Sends a job. It runs inside a savepoint: if it fails, what it wrote is undone and the others stand. If its
    /// transaction fails as a whole, every job in it fails.
    pub fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<Ticket<T>> {
        let (answer, receiver) = sync_channel(1);
        let boxed: Job = Box::new(move |connection| {
            let result = in_savepoint(connection, job);
            Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(reason) => Err(Error::new(ErrorKind::Index, format!("writing to the index: {reason}"))),
                };
                // Nobody has to wait for an answer.
                let _ = answer.send(result);
            })
        });
        self.sender.send(Message::Job(boxed)).map_err(|_| stopped())?;
        Ok(Ticket { receiver, sender: self.sender.clone() })
    }

    /// Sends an examination to be recorded.
    pub fn record(&self, examination: Examination, now: Timestamp) -> Result<Ticket<Recorded>> {
        self.submit(move |connection| record(connection, &examination, now))
    }
}

fn in_savepoint<T>(connection: &Connection, job: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let doing = "writing to the index";
    let step = |sql: &str| connection.execute_batch(sql).map_err(|error| failed(doing, error));
    step("SAVEPOINT job")?;
    // A panic is a defect of the job, and must not take the others with it.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(connection)))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "writing to the index: a panic in a job")));
    match result {
        Ok(value) => step("RELEASE job").map(|()| value),
        Err(error) => {
            step("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}

impl WriterThread {
    /// Opens the index and starts its writer.
    pub fn start(path: &Path) -> Result<Self> {
        let index = Index::open(path)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("index-writer".to_owned())
            .spawn(move || serve(index, &receiver))
            .map_err(|error| Error::io("starting the index writer", error))?;
        Ok(Self { writer: Some(Writer { sender }), thread: Some(thread) })
    }

    /// A handle to send jobs by. Handles that outlive this keep the thread running, and `finish` waiting.
    pub fn writer(&self) -> Result<Writer> {
        self.writer.clone().ok_or_else(stopped)
    }

    /// Writes what was sent and stops.
    pub fn finish(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.writer = None;
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new(ErrorKind::Internal, "writing to the index: the writer panicked")),
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!("{}", error.one_line());
        }
    }
}

fn serve(mut index: Index, receiver: &Receiver<Message>) -> Result<()> {
    loop {
        let first = match receiver.recv() {
            Ok(Message::Job(job)) => job,
            Ok(Message::Flush) => continue,
            Err(_) => return Ok(()),
        };
        batch(&mut index, receiver, first);
    }
}

/// One transaction: the first job and those that come in time. A failure settles every job of the batch with it.
fn batch(index: &mut Index, receiver: &Receiver<Message>, first: Job) {
    let mut jobs = vec![first];
    let until = Instant::now() + LINGER;
    while jobs.len() < BATCH {
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Message::Job(job)) => jobs.push(job),
            Ok(Message::Flush) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    // Gathered first and run then, so that the write lock is held for as short as can be.
    let mut settle = Vec::with_capacity(jobs.len());
    let result = index
        .connection_mut()
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(|transaction| {
            settle.extend(jobs.drain(..).map(|job| job(&transaction)));
            transaction.commit()
        })
        .map_err(|error| error.to_string());
    // Jobs that never ran are dropped with their answers, which tells those who wait that the writer gave up on them.
    settle.into_iter().for_each(|settle| settle(result.clone()));
    if let Err(reason) = result {
        tracing::error!("writing to the index: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::index::samples::{at, examination};
    use crate::index::{ExaminationFilter, ListOrder, PageBounds};

    fn count(path: &Path) -> usize {
        let index = Index::open_read_only(path).unwrap();
        let page = PageBounds { limit: 100_000, after: None };
        index.examinations(&ExaminationFilter::default(), ListOrder::Recorded, page).unwrap().rows.len()
    }

    #[test]
    fn many_threads_write_through_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let thread = WriterThread::start(&path).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let writer = thread.writer().unwrap();
                scope.spawn(move || {
                    let tickets: Vec<_> =
                        (0..25).map(|seed| writer.record(examination(worker * 25 + seed), at(0)).unwrap()).collect();
                    assert!(tickets.into_iter().all(|ticket| ticket.wait().unwrap().new));
                });
            }
        });
        // Another connection reads what is settled while the writer is still there.
        assert_eq!(count(&path), 100);
        thread.finish().unwrap();
    }

    #[test]
    fn a_failing_job_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let thread = WriterThread::start(&path).unwrap();
        let writer = thread.writer().unwrap();
        let good = writer.record(examination(1), at(0)).unwrap();
        let bad = writer
            .submit(|connection| {
                record(connection, &examination(2), at(0))?;
                Err::<(), _>(Error::new(ErrorKind::Usage, "changed my mind"))
            })
            .unwrap();
        let panicking = writer
            .submit(|connection| -> Result<()> {
                record(connection, &examination(3), at(0))?;
                panic!("a defect")
            })
            .unwrap();
        let last = writer.record(examination(4), at(0)).unwrap();
        assert!(last.wait().unwrap().new && good.settled().unwrap().new);
        assert_eq!(bad.wait().unwrap_err().kind, ErrorKind::Usage);
        assert_eq!(panicking.wait().unwrap_err().kind, ErrorKind::Internal);
        drop(writer);
        thread.finish().unwrap();
        assert_eq!(count(&path), 2);
    }

    #[test]
    fn what_is_sent_is_written_when_the_writer_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let thread = WriterThread::start(&path).unwrap();
        for seed in 0..10 {
            drop(thread.writer().unwrap().record(examination(seed), at(0)).unwrap());
        }
        drop(thread);
        assert_eq!(count(&path), 10);
    }

    const CHILD: &str = "ORTHOSCOPE_TEST_WRITER";

    /// Not a test of its own: the program that the next test kills.
    #[test]
    fn a_program_that_records_until_it_is_killed() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let thread = WriterThread::start(Path::new(&path)).unwrap();
        let writer = thread.writer().unwrap();
        for seed in 0..1_000_000 {
            let recorded = writer.record(examination(seed), at(0)).unwrap().wait().unwrap();
            // Standard error: the test harness keeps standard output to itself.
            eprintln!("recorded {}", recorded.id);
        }
    }

    #[test]
    fn nothing_that_was_recorded_is_lost_on_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let mut told = Vec::new();
        for stop in [3, 17, 40] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "index::write::tests::a_program_that_records_until_it_is_killed", "--nocapture"])
                .env(CHILD, &path)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(std::result::Result::ok);
            let ids = lines.filter_map(|line| line.strip_prefix("recorded ").map(str::to_owned));
            told.extend(ids.take(stop));
            child.kill().unwrap();
            child.wait().unwrap();
            let index = Index::open(&path).unwrap();
            assert!(index.integrity().unwrap().is_empty());
            for id in &told {
                assert!(index.get(id).unwrap().is_some(), "{id} is lost");
            }
        }
        assert_eq!(told.len(), 60);
    }
}
