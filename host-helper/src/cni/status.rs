use super::call::Call;
use super::fault::Fault;
pub fn status(_: &Call) -> Result<(), Fault> {
    Ok(())
}
