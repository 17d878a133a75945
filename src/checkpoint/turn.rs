//! One at a time: checkpoints of many tensors, in a sweep that examines several repositories at once.
//!
//! A header of a few megabytes describes hundreds of thousands of tensors, and each takes a few hundred bytes for as
//! long as its checkpoint is open. Whoever opens checkpoints beside others declares a [`Scope`] on its thread; the
//! reader that meets more than [`MANY_TENSORS`](crate::limits::MANY_TENSORS) tensors takes the turn, waiting while
//! another thread has it, and the scope's end gives it back. Small checkpoints never wait.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    static SCOPES: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// As long as it lives a turn that its thread takes is kept. Scopes may be inside one another; the outermost counts.
#[must_use]
pub struct Scope(PhantomData<*const ()>);

impl Scope {
    /// Begins a scope on this thread.
    pub fn begin() -> Self {
        SCOPES.set(SCOPES.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        SCOPES.set(SCOPES.get().saturating_sub(1));
        if SCOPES.get() == 0 {
            HELD.take();
        }
    }
}

/// Takes the turn for the scope that this thread is in. Nothing happens outside of any, or where the thread has it.
pub(crate) fn take() {
    let has = HELD.with_borrow(Option::is_some);
    if SCOPES.get() > 0 && !has {
        // Nothing is guarded but the turn itself: a panic of another holder leaves nothing behind.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(Some(turn));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_thread_at_a_time_has_the_turn_until_its_scope_ends() {
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Barrier::new(4);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    start.wait();
                    for _ in 0..50 {
                        let _scope = Scope::begin();
                        take();
                        {
                            let _inner = Scope::begin();
                            take();
                        }
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn without_a_scope_nothing_waits() {
        let _scope = Scope::begin();
        take();
        std::thread::spawn(take).join().unwrap();
    }
}
