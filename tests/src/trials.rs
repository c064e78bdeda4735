//! How a test program of several trials names them, where libtest-mimic runs them on parts that all of them share.

/// Trials, each with its name (`module::function`) and what it does, run by a function that takes it as a future.
#[macro_export]
macro_rules! trials {
    ($run:path: $($module:ident::$name:ident,)*) => {
        vec![$(libtest_mimic::Trial::test(
            concat!(stringify!($module), "::", stringify!($name)),
            || $run($module::$name()),
        )),*]
    };
}
