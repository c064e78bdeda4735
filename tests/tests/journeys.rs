//! Whole lives of sessions on real parts: bad input, deletion at every stage, crashes at every stage, hosts that go wrong.

mod journeys {
    mod bad_input;
    mod crashes;
    mod deletion;
    mod hosts;
    mod stage;
}
