package doctor

func metrics(e *examination) Finding {
	const name = "metrics"
	switch {
	case e.Settings.Metrics == "":
		return Finding{name, OK, "none are wanted", ""}
	case e.statusErr != nil:
		return Finding{name, Skip, "the agent does not tell", ""}
	case e.status.MetricsError != "":
		return Finding{name, Warn, "not served: " + e.status.MetricsError,
			"free the port, or set metrics to another one, or to \"\", and restart the agent"}
	}
	return Finding{name, OK, "served at http://" + e.Settings.Metrics + "/metrics", ""}
}
