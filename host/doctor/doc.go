// Package doctor examines a host: what is wrong with it, what mends it, and what a
// stranger would see of it.
//
// It reads, and changes nothing. The one thing it sends is a knock at the controller,
// and only while no agent has a connection there: a second control connection of the
// same host could take the way of the first.
package doctor
