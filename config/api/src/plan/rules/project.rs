//! Projects and the application-policy-set that each has.

use std::sync::Arc;

use serde_json::{Map, json};
use skein_model::{Kind, Object};

use super::super::{Intake, create, delete::remove_with_children, draft::plain_reference};
use crate::{error::ApiResult, plan::Draft};

/// Makes the default application-policy-set and refers to it.
pub(super) fn after_create(draft: &mut Draft<'_>, project: &Arc<Object>) -> ApiResult<()> {
    let name = format!("default-{}", Kind::APPLICATION_POLICY_SET);
    let fq_name: Vec<&str> =
        project.fq_name.parts().iter().map(|p| &**p).chain([name.as_str()]).collect();
    let mut fields = Map::new();
    fields.insert("fq_name".into(), json!(fq_name));
    fields.insert("parent_type".into(), json!("project"));
    fields.insert("all_applications".into(), json!(true));
    let set = create::create(draft, Intake::from_fields(Kind::APPLICATION_POLICY_SET, fields)?)?;
    let mut project = Object::clone(project);
    project.references.push(plain_reference(&set));
    draft.put(project);
    Ok(())
}

/// The set goes with the project.
pub(super) fn after_delete(draft: &mut Draft<'_>, project: &Object) -> ApiResult<()> {
    for reference in project.references_to(Kind::APPLICATION_POLICY_SET) {
        if let Some(set) =
            draft.get(reference.uuid).filter(|set| set.parent.is_some_and(|p| p.1 == project.uuid))
        {
            remove_with_children(draft, &set)?;
        }
    }
    Ok(())
}
