//! Tells the tests what they are built for. With the feature `cuda`, compiles the kernels to PTX, which the driver of any
//! GPU from compute capability 8.0 on translates when it is loaded, and looks through what the compiler made of them.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, exit};

/// The least GPU: the first with the int8 matrix instruction that the kernels use.
const ARCHITECTURE: &str = "compute_80";

/// Nothing is approximated, flushed or contracted (docs/arithmetic.md, A1).
const FLAGS: [&str; 8] = [
    "-ptx",
    "-O3",
    "-std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "-Werror=all-warnings",
];

fn main() {
    println!("cargo:rustc-env=CANDOR_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(problem) = kernels()
    {
        for line in problem.lines() {
            println!("cargo:error={line}");
        }
        exit(1);
    }
}

/// Compiles every `.cu` file and writes `kernels.rs`, which lists them.
fn kernels() -> Result<(), String> {
    for variable in ["CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let folder = Path::new("src/engine/cuda/kernels");
    println!("cargo:rerun-if-changed={}", folder.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let nvcc = nvcc().ok_or(
        "the feature `cuda` needs NVIDIA's compiler, and there is no `nvcc` in $CUDA_HOME/bin, $CUDA_PATH/bin, on the PATH \
         or in /usr/local/cuda/bin.\nInstall the CUDA toolkit, or run `tools/cuda/setup`, which fetches the compiler from \
         PyPI, and `source tools/cuda/env.sh`. See docs/gpu.md.",
    )?;
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "cu"))
        .collect();
    files.sort();
    // Two at a time: what a small machine has.
    let mut list = String::from("/// PTX by source file.\nconst MODULES: &[(&str, &str)] = &[\n");
    for pair in files.chunks(2) {
        let running: Vec<(&PathBuf, PathBuf, Child)> = pair
            .iter()
            .map(|file| {
                let ptx = out.join(file.file_stem().unwrap_or_default()).with_extension("ptx");
                let mut command = Command::new(&nvcc);
                command.arg(format!("-arch={ARCHITECTURE}")).args(FLAGS).arg(file).arg("-o").arg(&ptx);
                let child = command.spawn().map_err(|error| format!("{}: {error}", nvcc.display()))?;
                Ok((file, ptx, child))
            })
            .collect::<Result<_, String>>()?;
        for (file, ptx, mut child) in running {
            let status = child.wait().map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("{} does not compile: {status}", file.display()));
            }
            let text = fs::read_to_string(&ptx).map_err(|error| format!("{}: {error}", ptx.display()))?;
            check(&text).map_err(|problem| format!("{}: {problem}", file.display()))?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let _ = writeln!(list, "    (\"{name}\", include_str!({:?})),", ptx.display().to_string());
        }
    }
    list.push_str("];\n");
    fs::write(out.join("kernels.rs"), list).map_err(|error| error.to_string())
}

fn nvcc() -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = env::split_paths(&path).collect();
    homes.chain(path).chain(["/usr/local/cuda/bin".into()]).map(|bin| bin.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// Instructions on f32 and f64 that may occur: the five operations, rounded as the arithmetic says, and what moves,
/// compares or converts numbers without rounding them otherwise.
const ALLOWED: &[&str] = &[
    "add.rn.f32",
    "sub.rn.f32",
    "mul.rn.f32",
    "div.rn.f32",
    "sqrt.rn.f32",
    "fma.rn.f32",
    "neg.f32",
    "abs.f32",
    "max.f32",
    "min.f32",
    "mov.f32",
    "selp.f32",
    "setp.",
    "ld.",
    "st.",
    "cvt.rn.f32.s32",
    "cvt.rn.f32.u32",
    "cvt.rni.s32.f32",
    "cvt.f32.f16",
    "cvt.rn.f32.u8",
    "cvt.rn.f32.u16",
    "cvt.rn.f32.s8",
    "cvt.rn.f32.s16",
    ".reg",
    ".param",
    ".func",
    "shfl.",
    "testp.",
];

/// Refuses instructions that would not give the bits of the arithmetic, whatever brought them in.
fn check(ptx: &str) -> Result<(), String> {
    for (number, line) in ptx.lines().enumerate() {
        let code = line.trim_start().trim_start_matches('{').trim_start();
        // A predicate before the instruction.
        let code = code
            .strip_prefix('@')
            .and_then(|rest| rest.split_once(char::is_whitespace))
            .map_or(code, |p| p.1.trim_start());
        let instruction = code.split(char::is_whitespace).next().unwrap_or_default();
        let floats = [".f32", ".f64", ".f16", ".bf16"].iter().any(|kind| instruction.contains(kind));
        let allowed = ALLOWED.iter().any(|allowed| instruction.starts_with(allowed)) && !instruction.contains(".f64");
        let always = [".ftz", ".approx", ".full"].iter().any(|part| instruction.contains(part));
        if always || (floats && !allowed) {
            return Err(format!("line {} of its PTX is not of the arithmetic: {}", number + 1, line.trim()));
        }
    }
    Ok(())
}
