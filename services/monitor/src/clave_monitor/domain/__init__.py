"""Pure rules of monitoring: drift, performance, fairness, canaries and the decision to retrain."""
