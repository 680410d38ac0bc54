//! `candor`: the relayer and everything a person does with it. See `candor help`, and docs/relayer.md.

fn main() -> std::process::ExitCode {
    candor_relayer::cli::main()
}
