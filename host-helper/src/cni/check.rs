use super::call::Call;
use super::fault::Fault;
pub fn check(_: &Call) -> Result<(), Fault> {
    Ok(())
}
