// Package identity keeps who and what there is: join tokens, the machines that
// enrolled with them (clients' devices and hosts), and the services behind hosts.
package identity
