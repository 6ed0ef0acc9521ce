//! Loads every BPF program of the datapath into the running kernel and says how it went. Run inside
//! other kernels by `second_kernel`.

use std::path::Path;
use std::process::ExitCode;

use agent::net::load::{Datapath, Families, Sizes};

fn main() -> ExitCode {
    let dir = Path::new("/sys/fs/bpf/windlass");
    match Datapath::load(dir, &Sizes::default(), Families::Both) {
        Ok(_) => {
            println!("every program was loaded");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut error: &dyn std::error::Error = &error;
            println!("{error}");
            while let Some(source) = error.source() {
                println!("  {source}");
                error = source;
            }
            ExitCode::FAILURE
        }
    }
}
