//! The files of a model, found in a folder and read into memory once.

use super::{CONFIG, ImportError, gguf};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Everything that an import reads.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// What the folder or file is called.
    pub name: String,
    /// `config.json`.
    pub config: String,
    /// Safetensors files with their names.
    pub weights: Vec<(String, Arc<Vec<u8>>)>,
    /// `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// `generation_config.json`.
    pub generation: Option<String>,
    /// `modules.json` of sentence-transformers.
    pub modules: Option<String>,
    /// `1_Pooling/config.json` of sentence-transformers.
    pub pooling: Option<String>,
    /// A GGUF file, which needs no other.
    pub gguf: Option<Arc<Vec<u8>>>,
    /// An ONNX file, which `config.json` may describe.
    pub onnx: Option<Arc<Vec<u8>>>,
}

/// The most that a JSON file may be: the largest vocabularies take a tenth of it.
const MAX_TEXT: u64 = 256 << 20;
/// Bytes that are read between two reports of progress.
const STEP: usize = 16 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Files {
    /// Reads a folder or a file. A folder with a `config.json` is that model; one without it is the GGUF file that it
    /// holds. `progress` hears the bytes read and to be read.
    ///
    /// # Errors
    /// If a file that is needed is missing or cannot be read.
    pub fn read(path: &Path, progress: impl FnMut(u64, u64)) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::Read { path: path.to_path_buf(), source };
        let kind = std::fs::metadata(path).map_err(unreadable)?;
        let name = path.file_stem().filter(|_| kind.is_file()).or(path.file_name()).unwrap_or(path.as_os_str());
        let mut files = Self { name: name.to_string_lossy().into_owned(), ..Self::default() };
        let mut progress = progress;
        if kind.is_file() {
            let contents = Some(Arc::new(read_all(path, kind.len(), &mut progress)?));
            match contents.as_deref() {
                Some(start) if gguf::is_gguf(start) => files.gguf = contents,
                _ if has_ending(path, "onnx") => files.onnx = contents,
                _ => {
                    return Err(ImportError::Damaged {
                        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                        problem: "is neither a GGUF nor an ONNX file; other models are folders with config.json and \
                                  safetensors files"
                            .to_string(),
                    });
                }
            }
            return Ok(files);
        }
        // Beside an ONNX file there may be its description, and no weights.
        let described = path.join(CONFIG).exists();
        if let Some(file) = only_file(path, "onnx")? {
            if described && !is_onnx_config(&text(&path.join(CONFIG))?) {
                // Another model in other files; the graph is of the same one, and a choice that the description has made.
            } else {
                let mut read = Self { name: files.name, ..Self::read(&path.join(file), progress)? };
                if described {
                    read.config = text(&path.join(CONFIG))?;
                }
                return Ok(read);
            }
        }
        if !described && let Some(file) = only_file(path, "gguf")? {
            return Ok(Self { name: files.name, ..Self::read(&path.join(file), progress)? });
        }
        files.config = text(&path.join(CONFIG))?;
        let optional = |name: &str| {
            let path = path.join(name);
            if path.exists() { text(&path).map(Some) } else { Ok(None) }
        };
        files.tokenizer = optional("tokenizer.json")?;
        files.generation = optional("generation_config.json")?;
        files.modules = optional("modules.json")?;
        files.pooling = optional("1_Pooling/config.json")?;
        let names = weight_files(path, optional("model.safetensors.index.json")?.as_deref())?;
        let mut sizes = Vec::new();
        for name in &names {
            let path = path.join(name);
            sizes.push(std::fs::metadata(&path).map_err(|source| ImportError::Read { path, source })?.len());
        }
        let total = sizes.iter().sum();
        let mut before = 0;
        for (name, size) in names.into_iter().zip(sizes) {
            let bytes = read_all(&path.join(&name), size, &mut |done, _| progress(before + done, total))?;
            files.weights.push((name, Arc::new(bytes)));
            before += size;
        }
        Ok(files)
    }
}

/// `model.safetensors`, or the files that an index names, or the only safetensors file that there is.
fn weight_files(folder: &Path, index: Option<&str>) -> Result<Vec<String>, ImportError> {
    const SINGLE: &str = "model.safetensors";
    if folder.join(SINGLE).exists() {
        return Ok(vec![SINGLE.to_string()]);
    }
    if let Some(index) = index {
        let damaged = |problem: String| ImportError::Damaged { file: format!("{SINGLE}.index.json"), problem };
        let index: Index = serde_json::from_str(index).map_err(|e| damaged(e.to_string()))?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        // INVARIANT: an index names files of its own folder only.
        let plain = |name: &str| name.ends_with(".safetensors") && !name.contains(['/', '\\', ':']);
        return match names.iter().find(|name| !plain(name)) {
            Some(name) => Err(damaged(format!("weight_map: {name:?} is not a safetensors file of this folder"))),
            None => Ok(names.into_iter().collect()),
        };
    }
    // When there is none, the name that was expected is the one to complain about.
    Ok(vec![only_file(folder, "safetensors")?.unwrap_or_else(|| SINGLE.to_string())])
}

/// Whether a `config.json` describes an ONNX file.
fn is_onnx_config(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        architecture: String,
    }
    serde_json::from_str::<Kind>(text).is_ok_and(|kind| kind.architecture == "onnx")
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

/// The file with that ending, if there is one; two are one too many.
fn only_file(folder: &Path, ending: &str) -> Result<Option<String>, ImportError> {
    let unreadable = |source| ImportError::Read { path: folder.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if has_ending(Path::new(&name), ending) {
            names.push(name);
        }
    }
    names.sort();
    match names.len() {
        0 | 1 => Ok(names.pop()),
        _ => Err(ImportError::Damaged {
            file: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            problem: format!("which of {} is the model?", names.join(", ")),
        }),
    }
}

fn text(path: &Path) -> Result<String, ImportError> {
    let unreadable = |source| ImportError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(unreadable(std::io::Error::other(format!("more than {MAX_TEXT} bytes"))));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned()) // what is not UTF-8 is not JSON either, and gets its error there
}

/// A file of `size` bytes, as it is now: one that grows meanwhile is cut, one that shrinks is short and found damaged.
fn read_all(path: &Path, size: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<u8>, ImportError> {
    let unreadable = |source| ImportError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let capacity = usize::try_from(size).map_err(std::io::Error::other).map_err(unreadable)?;
    bytes.try_reserve_exact(capacity).map_err(std::io::Error::other).map_err(unreadable)?;
    progress(0, size);
    while bytes.len() < capacity {
        let step = STEP.min(capacity - bytes.len()) as u64;
        if file.by_ref().take(step).read_to_end(&mut bytes).map_err(unreadable)? == 0 {
            break;
        }
        progress(bytes.len() as u64, size);
    }
    Ok(bytes)
}
