//! The golden vectors on the emulated GPU, whatever the order of its threads, and the emulation itself: that it notices
//! the mistakes it is there to notice.

mod cuda_common;

use candor_relayer::engine::cuda::memory::Device;
use candor_relayer::engine::cuda::{Arg, DeviceError, Driver, Kernel, Worker, ops, selftest};
use cuda_common::{Emulated, Library};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn golden_vectors_in_any_order_of_threads() {
    for seed in [2, 3] {
        let test = selftest::run(&Device::new(Box::new(Emulated::new(seed)))).expect("a run");
        assert_eq!((test.wrong_count, test.wrong.as_slice()), (0, [].as_slice()), "seed {seed}");
        assert_eq!(test.compared, 451_423, "docs/gpu.md names this number");
    }
}

#[test]
fn a_device_with_one_wrong_bit_does_not_serve() {
    let open = || {
        let mut device = Emulated::new(1);
        device.broken_bit = Some(3);
        Ok(Box::new(device) as Box<dyn Driver>)
    };
    let error = Worker::start("broken", open).expect_err("it computes wrong numbers");
    assert!(matches!(&error, DeviceError::Failed(text) if text.contains("can't be trusted")), "{error}");
}

/// `ops.rs` and the sources name the same kernels, in the same files.
#[test]
fn every_kernel_has_a_name_on_both_sides() {
    let ours = |name: &&String| !name.starts_with("faulty_");
    let compiled: Vec<String> = Library::get().names();
    let compiled: BTreeSet<&str> = compiled.iter().filter(ours).map(String::as_str).collect();
    let named: BTreeSet<&str> = ops::kernel::ALL.iter().map(|kernel| kernel.name).collect();
    assert_eq!(compiled, named);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/cuda/kernels");
    for kernel in ops::kernel::ALL {
        let file = folder.join(kernel.module).with_extension("cu");
        let text = std::fs::read_to_string(&file).expect("a source");
        assert!(text.contains(&format!("({},", kernel.name)), "{} is not in {}", kernel.name, file.display());
    }
    let files = std::fs::read_dir(&folder).expect("sources").filter_map(|entry| {
        let path = entry.expect("a source").path();
        (path.extension().is_some_and(|end| end == "cu"))
            .then(|| path.file_stem().map(|s| s.to_string_lossy().into_owned()))?
    });
    let modules: BTreeSet<String> = ops::kernel::MODULES.iter().map(|module| module.to_string()).collect();
    assert_eq!(files.collect::<BTreeSet<String>>(), modules);
}

fn faulty(name: &'static str) -> Kernel {
    Kernel { module: "faulty", name, shared: 0 }
}

#[test]
fn mistakes_are_noticed() {
    let mut device = Emulated::new(5);
    let out = device.allocate(256).expect("memory");
    for (name, threads, message) in [
        ("faulty_barrier", 64, "wait for others"),
        ("faulty_load", 32, "not aligned"),
        ("faulty_shuffle", 32, "wait for others"),
        ("faulty_end", 32, "nobody can wait for"),
        ("faulty_shared", 32, "another size of shared memory"),
    ] {
        let error = device.launch(faulty(name), [1, 1, 1], threads, &[Arg::Address(out)]).expect_err(name);
        assert!(error.to_string().contains(message), "{error}");
    }
    // After a fault all is as before.
    let good = ops::kernel::encode_words;
    let args = [Arg::Address(out), Arg::Address(out), Arg::U64(0)];
    device.launch(good, [1, 1, 1], 64, &args).expect("a launch");
    for (args, message) in [
        (&args[..2], "another number of parameters"),
        (&[args[0], args[1], Arg::U32(0)], "a parameter of another size"),
    ] {
        let error = device.launch(good, [1, 1, 1], 64, args).expect_err("wrong parameters");
        assert!(error.to_string().contains(message), "{error}");
    }
    assert!(device.launch(good, [1, 1, 1], 512, &args).is_err(), "more threads than it was compiled for");
    assert!(device.launch(good, [1, 70_000, 1], 64, &args).is_err(), "a grid that no device takes");
    assert!(device.launch(good, [0, 1, 1], 64, &args).is_err(), "an empty grid");
    let greedy = Kernel { shared: 1 << 20, ..good };
    assert!(device.launch(greedy, [1, 1, 1], 64, &args).is_err(), "shared memory that no device has");
    assert!(device.launch(faulty("nobody"), [1, 1, 1], 64, &args).is_err(), "a kernel that is not there");
}

/// What is being copied into shared memory is garbage until it is waited for.
#[test]
fn copies_under_way_are_not_read() {
    let mut device = Emulated::new(6);
    let out = device.allocate(128).expect("memory");
    device.upload(out, &[7; 128]).expect("an upload");
    device.launch(faulty("faulty_copy"), [1, 1, 1], 32, &[Arg::Address(out)]).expect("a launch");
    let mut bytes = vec![0; 128];
    device.download(out, &mut bytes).expect("bytes");
    assert_eq!(bytes, [0xff; 128]);
}

/// A kernel that depends on the order of threads gives different results with different seeds.
#[test]
fn threads_run_in_random_order() {
    let mut seen = BTreeSet::new();
    for seed in 0..8 {
        let mut device = Emulated::new(seed);
        let out = device.allocate(256).expect("memory");
        device.launch(faulty("faulty_order"), [1, 1, 1], 64, &[Arg::Address(out)]).expect("a launch");
        let mut bytes = vec![0; 256];
        device.download(out, &mut bytes).expect("bytes");
        seen.insert(bytes);
    }
    assert!(seen.len() >= 4, "{} results", seen.len());
}
