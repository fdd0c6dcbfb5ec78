//! Turns `schema/*.yaml` into metadata tables, value structs and typed views.
//!
//! Output files in `OUT_DIR`: `kinds.rs` (constants of [`Kind`]), `tables.rs` (statics),
//! `values.rs` (one struct per structured value), `views.rs` (one accessor struct per object type).

use serde::Deserialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectType {
    #[serde(rename = "type")]
    name: String,
    about: String,
    tier: u8,
    parents: Vec<String>,
    #[serde(default)]
    quota: bool,
    #[serde(default)]
    draftable: bool,
    #[serde(default)]
    server_sets: Vec<String>,
    #[serde(default)]
    children: BTreeMap<String, Link>,
    #[serde(default)]
    references: BTreeMap<String, Link>,
    #[serde(default)]
    properties: BTreeMap<String, Property>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Link {
    link: String,
    attr: Option<String>,
    #[serde(default)]
    symmetric: bool,
    #[serde(default)]
    derived: bool,
    #[allow(dead_code)]
    presence: Option<String>,
    #[allow(dead_code)]
    ops: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Property {
    #[serde(rename = "type")]
    value: String,
    collection: Option<String>,
    key: Option<String>,
    presence: Option<String>,
    #[allow(dead_code)]
    ops: Option<String>,
    #[serde(default)]
    default: Option<Literal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Common {
    properties: BTreeMap<String, Property>,
    references: BTreeMap<String, Link>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    #[serde(rename = "type")]
    value: String,
    #[serde(default)]
    list: bool,
    need: Option<String>,
    #[serde(default)]
    #[allow(dead_code)]
    choice: bool,
    #[serde(default)]
    default: Option<Literal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scalar {
    base: String,
    #[serde(rename = "enum", default)]
    allowed: Vec<String>,
    min: Option<i64>,
    max: Option<i64>,
    pattern: Option<String>,
    #[serde(default)]
    #[allow(dead_code)]
    default: Option<Literal>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Literal>),
}

impl Literal {
    fn text(&self) -> String {
        match self {
            Literal::Bool(v) => v.to_string(),
            Literal::Int(v) => v.to_string(),
            Literal::Float(v) => v.to_string(),
            Literal::Text(v) => v.clone(),
            Literal::List(v) => v.iter().map(Literal::text).collect::<Vec<_>>().join(", "),
        }
    }
}

struct Schema {
    types: Vec<ObjectType>,
    common: Common,
    structs: BTreeMap<String, BTreeMap<String, Field>>,
    scalars: BTreeMap<String, Scalar>,
}

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../schema");
    println!("cargo:rerun-if-changed={}", root.display());
    let schema = load(&root)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("kinds.rs"), kinds(&schema)?)?;
    fs::write(out.join("tables.rs"), tables(&schema)?)?;
    fs::write(out.join("values.rs"), values(&schema)?)?;
    fs::write(out.join("views.rs"), views(&schema)?)?;
    Ok(())
}

fn load(root: &Path) -> Result<Schema> {
    let mut types: Vec<ObjectType> = Vec::new();
    let mut files: Vec<_> = fs::read_dir(root.join("types"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        types.push(read(&file)?);
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Schema {
        types,
        common: read(&root.join("common.yaml"))?,
        structs: read(&root.join("structs.yaml"))?,
        scalars: read(&root.join("scalars.yaml"))?,
    })
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    serde_saphyr::from_str(&fs::read_to_string(file)?)
        .map_err(|error| format!("{}: {error}", file.display()).into())
}

fn snake(name: &str) -> String {
    name.replace('-', "_")
}

fn camel(name: &str) -> String {
    name.split(['-', '_'])
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
        })
        .collect()
}

/// A Rust identifier for a JSON name.
fn ident(name: &str) -> String {
    let base: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    match base.as_str() {
        "type" | "match" | "use" | "in" | "move" | "static" | "ref" | "loop" | "where" | "as"
        | "mod" | "final" | "virtual" => format!("r#{base}"),
        _ => base,
    }
}

impl Schema {
    fn index(&self, name: &str) -> Result<usize> {
        self.types
            .iter()
            .position(|t| t.name == name)
            .ok_or_else(|| format!("schema names unknown object type {name}").into())
    }

    fn value_type(&self, name: &str) -> Result<String> {
        Ok(match name {
            "string" => "ValueType::Text".into(),
            "integer" | "uint64" => "ValueType::Integer".into(),
            "boolean" => "ValueType::Boolean".into(),
            "datetime" | "time" => "ValueType::Time".into(),
            _ => {
                if let Some(at) = self.structs.keys().position(|k| k == name) {
                    format!("ValueType::Struct(&STRUCTS[{at}])")
                } else if let Some(at) = self.scalars.keys().position(|k| k == name) {
                    format!("ValueType::Scalar(&SCALARS[{at}])")
                } else {
                    return Err(format!("schema names unknown value type {name}").into());
                }
            }
        })
    }

    fn rust_type(&self, name: &str) -> Result<String> {
        Ok(match name {
            "string" | "datetime" | "time" => "String".into(),
            "integer" => "i64".into(),
            "uint64" => "u64".into(),
            "boolean" => "bool".into(),
            _ if self.structs.contains_key(name) => format!("values::{}", camel(name)),
            _ => match self.scalars.get(name).map(|s| s.base.as_str()) {
                Some("integer") => "i64".into(),
                Some(_) => "String".into(),
                None => return Err(format!("schema names unknown value type {name}").into()),
            },
        })
    }
}

fn kinds(schema: &Schema) -> Result<String> {
    let mut out = String::from("impl Kind {\n");
    for (at, ty) in schema.types.iter().enumerate() {
        writeln!(out, "/// `{}`: {}.", ty.name, ty.about)?;
        writeln!(out, "pub const {}: Kind = Kind({at});", snake(&ty.name).to_uppercase())?;
    }
    out.push_str("}\n");
    Ok(out)
}

fn option(text: Option<&str>) -> String {
    text.map_or("None".into(), |t| format!("Some({t:?})"))
}

fn properties(schema: &Schema, all: &BTreeMap<String, Property>, out: &mut String) -> Result<()> {
    for (name, p) in all {
        let collection = match (p.collection.as_deref(), &p.key) {
            (None, _) => "Collection::None".into(),
            (Some("list"), _) => "Collection::List".into(),
            (Some("map"), Some(key)) => format!("Collection::Map {{ key: {key:?} }}"),
            (Some(other), _) => return Err(format!("{name}: bad collection {other}").into()),
        };
        writeln!(
            out,
            "PropertyMeta {{ name: {name:?}, value: {}, collection: {collection}, \
             system_only: {}, default: {} }},",
            schema.value_type(&p.value)?,
            p.presence.as_deref() == Some("system-only"),
            option(p.default.as_ref().map(Literal::text).as_deref()),
        )?;
    }
    Ok(())
}

fn references(schema: &Schema, all: &BTreeMap<String, Link>, out: &mut String) -> Result<()> {
    for (target, link) in all {
        let attr = match &link.attr {
            None => "None".to_owned(),
            Some(name) => {
                let at = schema.structs.keys().position(|k| k == name);
                let at = at.ok_or_else(|| format!("reference attr {name} is no struct"))?;
                format!("Some(&STRUCTS[{at}])")
            }
        };
        writeln!(
            out,
            "ReferenceMeta {{ target: Kind({}), field: \"{}_refs\", link: {:?}, attr: {attr}, \
             symmetric: {}, derived: {} }},",
            schema.index(target)?,
            snake(target),
            link.link,
            link.symmetric,
            link.derived,
        )?;
    }
    Ok(())
}

fn tables(schema: &Schema) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "pub(crate) static SCALARS: [ScalarMeta; {}] = [", schema.scalars.len())?;
    for (name, s) in &schema.scalars {
        writeln!(
            out,
            "ScalarMeta {{ name: {name:?}, integer: {}, allowed: &{:?}, min: {:?}, max: {:?}, \
             pattern: {} }},",
            s.base == "integer",
            s.allowed,
            s.min,
            s.max,
            option(s.pattern.as_deref()),
        )?;
    }
    writeln!(out, "];\npub(crate) static STRUCTS: [StructMeta; {}] = [", schema.structs.len())?;
    for (name, fields) in &schema.structs {
        writeln!(out, "StructMeta {{ name: {name:?}, fields: &[")?;
        for (field, f) in fields {
            writeln!(
                out,
                "FieldMeta {{ name: {field:?}, value: {}, list: {}, required: {}, default: {} }},",
                schema.value_type(&f.value)?,
                f.list,
                f.need.as_deref() == Some("required"),
                option(f.default.as_ref().map(Literal::text).as_deref()),
            )?;
        }
        out.push_str("] },\n");
    }
    out.push_str("];\npub(crate) static COMMON: CommonMeta = CommonMeta { properties: &[\n");
    properties(schema, &schema.common.properties, &mut out)?;
    out.push_str("], references: &[\n");
    references(schema, &schema.common.references, &mut out)?;
    writeln!(out, "] }};\npub(crate) static TYPES: [TypeMeta; {}] = [", schema.types.len())?;
    for ty in &schema.types {
        type_table(schema, ty, &mut out)?;
    }
    out.push_str("];\n");
    Ok(out)
}

fn type_table(schema: &Schema, ty: &ObjectType, out: &mut String) -> Result<()> {
    let parents = ty
        .parents
        .iter()
        .filter(|p| *p != "config-root")
        .map(|p| schema.index(p).map(|at| format!("Kind({at})")))
        .collect::<Result<Vec<_>>>()?;
    writeln!(
        out,
        "TypeMeta {{ name: {:?}, snake: {:?}, about: {:?}, tier: {}, parents: &[{}], \
         root_allowed: {}, quota: {}, draftable: {}, server_sets: &{:?}, children: &[",
        ty.name,
        snake(&ty.name),
        ty.about,
        ty.tier,
        parents.join(", "),
        ty.parents.is_empty() || ty.parents.iter().any(|p| p == "config-root"),
        ty.quota,
        ty.draftable,
        ty.server_sets,
    )?;
    for (child, link) in &ty.children {
        writeln!(
            out,
            "ChildMeta {{ kind: Kind({}), field: \"{}s\", derived: {} }},",
            schema.index(child)?,
            snake(child),
            link.derived,
        )?;
    }
    out.push_str("], references: &[\n");
    references(schema, &ty.references, out)?;
    out.push_str("], properties: &[\n");
    properties(schema, &ty.properties, out)?;
    out.push_str("], back_references: &[\n");
    for source in &schema.types {
        let own = source.references.get(&ty.name);
        let common = schema.common.references.get(&ty.name);
        if own.or(common).is_some_and(|link| !link.symmetric) {
            writeln!(
                out,
                "BackReferenceMeta {{ source: Kind({}), field: \"{}_back_refs\" }},",
                schema.index(&source.name)?,
                snake(&source.name),
            )?;
        }
    }
    out.push_str("] },\n");
    Ok(())
}

fn values(schema: &Schema) -> Result<String> {
    let mut out = String::new();
    for (name, fields) in &schema.structs {
        writeln!(out, "/// `{name}` of the VNC API.")?;
        out.push_str("#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]\n");
        out.push_str("#[serde(default)]\n");
        writeln!(out, "pub struct {} {{", camel(name))?;
        for (field, f) in fields {
            let rust = schema.rust_type(&f.value)?.replace("values::", "");
            let id = ident(field);
            let default =
                f.default.as_ref().map(|d| format!(" Assumed when absent: {}.", d.text()));
            let default = default.unwrap_or_default();
            writeln!(out, "/// `{field}` ({}).{default}", f.value)?;
            if id != *field && id.trim_start_matches("r#") != field {
                writeln!(out, "#[serde(rename = {field:?})]")?;
            }
            if f.list {
                out.push_str(
                    "#[serde(deserialize_with = \"null_as_empty\", \
                     skip_serializing_if = \"Vec::is_empty\")]\n",
                );
                writeln!(out, "pub {id}: Vec<{rust}>,")?;
            } else {
                out.push_str("#[serde(skip_serializing_if = \"Option::is_none\")]\n");
                writeln!(out, "pub {id}: Option<{rust}>,")?;
            }
        }
        out.push_str("}\n");
    }
    Ok(out)
}

fn views(schema: &Schema) -> Result<String> {
    let mut out = String::new();
    for ty in &schema.types {
        let name = camel(&ty.name);
        writeln!(out, "/// Typed access to a `{}`: {}.", ty.name, ty.about)?;
        writeln!(out, "#[derive(Clone, Copy, Debug)]\npub struct {name}<'a>(&'a Object);")?;
        writeln!(out, "impl<'a> {name}<'a> {{")?;
        writeln!(
            out,
            "/// A view of `object`; `None` when it is of another type.\n\
             pub fn of(object: &'a Object) -> Option<Self> {{\n\
             (object.kind == Kind::{}).then_some(Self(object)) }}",
            snake(&ty.name).to_uppercase()
        )?;
        out.push_str(
            "/// The object behind the view.\npub fn object(self) -> &'a Object { self.0 }\n",
        );
        for (prop, p) in &ty.properties {
            let rust = schema.rust_type(&p.value)?;
            let default =
                p.default.as_ref().map(|d| format!(" Assumed when absent: {}.", d.text()));
            writeln!(
                out,
                "/// `{prop}` ({}).{}\npub fn {}(self) -> Option<{rust}> {{ self.0.property({prop:?}) }}",
                p.value,
                default.unwrap_or_default(),
                ident(prop),
            )?;
        }
        out.push_str("}\n");
    }
    Ok(out)
}
