// Package firewall is the small, declarative interface between the agent and the
// kernel's packet filter: a default-drop table and, in it, pinholes whose
// deadlines the kernel itself keeps.
//
// This package holds values and the interface only and makes no system calls;
// the backends live below it, and all of them pass the suite in firewall/fwtest.
package firewall
