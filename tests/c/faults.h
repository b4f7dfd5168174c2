/* Included before every file of a core that is built for a program that ends others at its fault points. */
#ifndef FAULTS_H
#define FAULTS_H

void cl_fault(int point);
#define CL_FAULT(point) cl_fault(point)

#endif
