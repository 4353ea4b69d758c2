package main

import (
	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/internal/lastgood"
)

// noteGood notes a configuration that could be used, for a boot at which another cannot.
func noteGood(config controller.Config) error {
	return lastgood.Write(lastgood.Note{Backend: config.Firewall.Backend, Table: config.Firewall.Table})
}

// lastGood is for when the configuration cannot be used: the defaults without an open
// port, with the table of the last one that could. An order for a backend may be what
// cannot be carried out; only that there be none is followed.
func lastGood() controller.Config {
	config := controller.Defaults()
	config.Name, config.Knock.Source = "closed", controller.SourceCapture
	closed := config
	noted, ok := lastgood.Read(controller.DefaultState)
	if !ok {
		return closed
	}
	config.Firewall.Table = noted.Table
	if noted.Backend == controller.BackendNone {
		config.Firewall.Backend = noted.Backend
	}
	if config.Validate() != nil {
		return closed // nothing that this program would have noted
	}
	return config
}
