//! Keeps one certificate fresh while the agent runs: waits until `Plan` says renew, asks for a new one,
//! hands it over; what fails is tried again with a growing pause. When is `life`'s, how is the
//! caller's; the clock is an argument.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::csr;
use super::life::{Life, Plan};
use crate::config::KeyPair;

/// First and longest pause after a failed renewal.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// The clock may be set, and a machine may sleep: the plan is made again at least this often.
const LOOK: Duration = Duration::from_secs(3600);

/// The time of day, and waiting for another.
pub trait Clock {
    fn now(&self) -> OffsetDateTime;
    fn sleep(&self, pause: Duration) -> impl Future<Output = ()>;
}

/// The machine's clock.
pub struct System;

impl Clock for System {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn sleep(&self, pause: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(pause)
    }
}

/// Renews the certificate in `held` for ever; whoever watches it sees each new one. `renew` stores what
/// it returns; `jitter` is drawn once per certificate, in 0..1.
pub async fn keep<F>(
    name: &str,
    held: watch::Sender<KeyPair>,
    clock: &impl Clock,
    jitter: impl Fn() -> f64,
    renew: impl Fn() -> F,
) where
    F: Future<Output = Result<KeyPair, csr::Error>>,
{
    let mut share = jitter();
    let mut retry = RETRY.0;
    loop {
        let life = Life::of(&held.borrow().cert_pem);
        let pause = match Plan::new(clock.now(), life, share) {
            Plan::Wait(left) => left.min(LOOK),
            Plan::Renew => match renew().await {
                Ok(pair) => {
                    let until = Life::of(&pair.cert_pem).map(|life| life.until);
                    tracing::info!(certificate = name, until = ?until, "certificate renewed");
                    held.send_replace(pair);
                    (share, retry) = (jitter(), RETRY.0);
                    // A signer that gives what is old already is not asked again at once.
                    RETRY.0
                }
                Err(error) => {
                    tracing::warn!(certificate = name, %error, "certificate not renewed");
                    let pause = retry;
                    retry = (retry * 2).min(RETRY.1);
                    pause
                }
            },
        };
        clock.sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2030-01-01 0:00 UTC);

    fn certificate(from: OffsetDateTime, life: Duration) -> KeyPair {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) = (from, from + life);
        KeyPair {
            cert_pem: params.self_signed(&key).unwrap().pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }

    /// A clock on which no time passes but that which is waited for, up to an end.
    struct Simulated {
        passed: Cell<Duration>,
        end: Duration,
    }

    impl Clock for Simulated {
        fn now(&self) -> OffsetDateTime {
            START + self.passed.get()
        }

        async fn sleep(&self, pause: Duration) {
            if self.passed.get() + pause > self.end {
                std::future::pending::<()>().await;
            }
            self.passed.set(self.passed.get() + pause);
        }
    }

    /// Seconds after the start at which a certificate of `life` was asked for, in `end`.
    fn asked_at(life: Duration, end: Duration, fails: &[usize]) -> Vec<u64> {
        let clock = Simulated {
            passed: Cell::default(),
            end,
        };
        let asked = RefCell::new(Vec::new());
        let (held, mut seen) = watch::channel(certificate(START, life));
        let renew = || async {
            asked.borrow_mut().push(clock.passed.get().as_secs());
            if fails.contains(&asked.borrow().len()) {
                let (name, subject) = ("csr-1".to_owned(), "n".to_owned());
                return Err(csr::Error::Timeout { name, subject });
            }
            Ok(certificate(clock.now(), life))
        };
        let mut work = std::pin::pin!(keep("test", held, &clock, || 0.5, renew));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(work.as_mut().poll(&mut context).is_pending());
        let last = Life::of(&seen.borrow_and_update().cert_pem).unwrap();
        assert!(last.includes(clock.now()), "the newest is handed over");
        asked.borrow().clone()
    }

    #[test]
    fn a_certificate_is_replaced_again_and_again_before_it_ends() {
        let seconds = Duration::from_secs;
        let asked = asked_at(seconds(1000), seconds(3000), &[]);
        assert_eq!(asked, [800, 1600, 2400]);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_with_a_growing_pause() {
        let seconds = Duration::from_secs;
        let asked = asked_at(seconds(1000), seconds(900), &[1, 2, 3]);
        assert_eq!(asked, [800, 802, 806, 814]);
    }

    #[test]
    fn a_long_life_is_looked_at_again_and_not_renewed_early() {
        let (day, year) = (
            Duration::from_secs(86_400),
            Duration::from_secs(365 * 86_400),
        );
        assert_eq!(asked_at(year, day * 290, &[]), Vec::<u64>::new());
        let [asked] = asked_at(year, day * 300, &[])[..] else {
            panic!("once")
        };
        assert!(asked.abs_diff(day.as_secs() * 292) <= 1, "{asked}");
    }
}
