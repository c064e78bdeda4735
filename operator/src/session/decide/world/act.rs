//! What actions do to a modelled world, and what may never be done in it.

use super::super::Action;
use super::{World, ledger};
use crate::session::ledger::Change;
use crate::session::observe::RouteSeen;

impl World {
    pub(super) fn act(&mut self, action: Action) {
        self.settle_provider();
        match action {
            Action::Open { adrift, latch } => {
                assert!(self.ledger.is_none());
                let mut ledger = ledger();
                ledger.made = self.now;
                ledger.open(self.now, adrift.then(|| self.account.clone()), latch);
                self.ledger = Some(ledger);
            }
            Action::Guard => self.session.finalizer = true,
            Action::Note(change) => {
                let ledger = self.ledger.as_mut().unwrap();
                let before = ledger.clone();
                ledger.apply(change.clone());
                assert_ne!(
                    before, *ledger,
                    "a note that changes nothing would be written for ever: {change:?}"
                );
                let once = ledger.clone();
                ledger.apply(change.clone());
                assert_eq!(
                    once, *ledger,
                    "a note applied twice is not a note applied once: {change:?}"
                );
            }
            Action::Publish => {
                self.published = true;
                let host = match &self.route {
                    RouteSeen::Missing => None,
                    RouteSeen::Is { token: _, host } => host.clone(),
                };
                self.route = RouteSeen::Is {
                    token: Some("hash".to_owned()),
                    host,
                };
            }
            Action::Rent { proposal, number } => self.rent(&proposal, number),
            Action::Deploy { pod } => {
                let deploy = (self.now, self.engine());
                if let Some(real) = self.pods.iter_mut().find(|real| real.id == pod) {
                    // The same once more changes nothing; another one ends the first.
                    match real.deployed {
                        Some((_, engine)) if engine == deploy.1 => {}
                        Some(_) | None => real.deployed = Some(deploy),
                    }
                }
                self.host = None;
            }
            Action::OpenDoor {
                pod,
                address,
                port: _,
            } => {
                let ledger = self.ledger.as_ref().unwrap();
                let record = ledger.pod(&pod).unwrap();
                assert_eq!(
                    ledger.current(),
                    Some(record),
                    "S3: the door leads to the current pod only"
                );
                let pin = record
                    .pin
                    .as_ref()
                    .expect("S9: nothing leads to a host without a pin");
                self.route = RouteSeen::Is {
                    token: Some("hash".to_owned()),
                    host: Some((pin.key, address)),
                };
            }
            Action::CloseDoor => {
                if let RouteSeen::Is { token: _, host } = &mut self.route {
                    *host = None;
                }
            }
            Action::DropRoute => self.route = RouteSeen::Missing,
            Action::Clear { pod, until } => self.clear(&pod, until),
            Action::Terminate { pod } => self.terminate(&pod),
            Action::Receipt => {
                self.receipt = true;
                self.ledger
                    .as_mut()
                    .unwrap()
                    .apply(Change::Receipted { at: self.now });
            }
            Action::Release => {
                let ledger = self.ledger.as_ref().unwrap();
                assert!(
                    ledger.settled(),
                    "S6: released with something open\n{}",
                    self.story()
                );
                assert_eq!(
                    self.billing(),
                    0,
                    "S6: released while a pod bills\n{}",
                    self.story()
                );
                assert!(
                    !ledger.tried() || self.receipt,
                    "S6: released without a receipt"
                );
                assert_eq!(
                    self.route,
                    RouteSeen::Missing,
                    "S6: released with an open endpoint"
                );
                self.session.finalizer = false;
                self.exists = false;
                self.ledger = None;
            }
            Action::Discard => self.session.deleting = true,
        }
    }
}
